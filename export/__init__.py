"""Checkpoint -> bundle. May import torch, diffusers, transformers and onnx; never `latentrt.runtime`."""
