"""What a model computes as it reads a text, and the page that shows it."""
