"""Several runs side by side: their numbers, tables, pictures and report."""
