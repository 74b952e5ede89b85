"""Quantize and dequantize operators, and the modules that use them."""
