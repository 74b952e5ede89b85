"""One training loop, its losses and what it keeps on disk."""
