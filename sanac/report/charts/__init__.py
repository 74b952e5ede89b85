"""Charts drawn from scores, allocations and losses."""
