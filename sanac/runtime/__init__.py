"""Runs models on this machine: torch, onnxruntime and TensorRT backends, image generation, and `sanac doctor`."""
