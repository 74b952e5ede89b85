"""Quantize and dequantize operators for weights and activations, and the layers that use them."""
