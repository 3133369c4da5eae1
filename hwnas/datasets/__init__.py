"""Data sets, one per file: a factory (split) -> Images."""
