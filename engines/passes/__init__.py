"""Rewrites of a graph, one a file, each in place. They need `onnx-ir`, which is imported in this folder alone."""
