"""What TensorRT and TensorRT for RTX share: one code path. Their modules are imported in `*_backend.py` alone."""
