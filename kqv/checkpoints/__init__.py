"""Checkpoints: written so that a crash loses nothing, read so that nothing in them runs."""
