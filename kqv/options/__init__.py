"""Every option of the scripts, declared once; the command line and config files that set them."""
