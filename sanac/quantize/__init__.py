"""Fewer bits per weight: schemes, which weights they suit, and the pieces of the quantized component."""
