"""What the scripts share, one noun a file. Nothing here imports a script."""
