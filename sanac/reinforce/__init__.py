"""Judges that are trained: their data from a generator and a detector, and their training."""
