"""Latency and accuracy, measured. The only folder that may import all others."""
