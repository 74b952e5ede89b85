"""Graphs for other runtimes: ONNX whose weights stay where they are."""
