"""Models in the formats of others, one file a format, both directions together."""
