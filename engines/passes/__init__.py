"""Rewrites of a graph, one a file, each in place. They need `onnx` and `onnx-ir`, imported in this folder alone."""

PASSES = 1
"""Raise it whenever a pass, or what `trt/builder.py` does to a network, gives another graph than before: it is in the
keys of the engines that are compiled from what they give, which then are built again."""
