"""Engines -> pictures: tokenizer, noise, schedule, samplers, denoising loop, pipeline. Free of torch."""
