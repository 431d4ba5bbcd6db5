"""The whole loop as one model of Triton's Python backend."""
