"""The samplers: by name, with what each takes, and the path each goes."""

from __future__ import annotations

from .path import prepare
from .registry import SAMPLERS, SamplerSpec, get_sampler, sampler_with_eta

__all__ = ["SAMPLERS", "SamplerSpec", "get_sampler", "prepare", "sampler_with_eta"]
