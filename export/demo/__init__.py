"""The demo model: a small, real Stable Diffusion trained on scenes that code draws."""
