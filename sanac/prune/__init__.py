"""Which blocks go."""
