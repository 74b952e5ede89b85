"""Quantization: settings and jobs, bit allocation, calibration (GPTQ, activation scales, smoothing), packing."""
