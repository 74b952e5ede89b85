"""Quantization schemes, and which layers they apply to."""
