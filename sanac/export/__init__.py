"""Export: ONNX graphs that reference the checkpoint's own weight files, and TensorRT engines built from them."""
