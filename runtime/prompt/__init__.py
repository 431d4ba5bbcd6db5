"""Prompt -> what the UNet is conditioned on: weights, chunks, new words, the text encoder. Rules: docs/prompts.md."""
