"""From text files to batches: sources, tokenizers, datasets, token files, batches."""
