"""Depth growth: where new blocks are inserted and how they are initialised."""
