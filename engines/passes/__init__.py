"""Rewrites of a graph, one a file, each in place. They need `onnx` and `onnx-ir`, imported in this folder alone."""
