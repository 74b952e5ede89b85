"""Quantization schemes, and the rules for which layers they apply to."""
