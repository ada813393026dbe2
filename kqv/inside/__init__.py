"""Look inside a model: what it computes on a text, and the formats that explain.py shows it in."""
