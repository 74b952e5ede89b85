"""Which blocks come."""
