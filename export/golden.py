"""Record what PyTorch fp32 answers: the inputs and outputs that every engine is later checked against."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor

from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import TEXT_ENCODER, UNET, VAE_ENCODER

from .source import SourceModel
from .vocabulary import MAX_TOKENS
from .wrappers import Network, unet_multiple, vae_scale_factor

PROMPT, NEGATIVE_PROMPT = "a red circle on a blue background", ""
MAX_SIDE = 256  # pixels: a larger picture would dominate the time of an export and show nothing more
_PROMPTS = (PROMPT, NEGATIVE_PROMPT, "two small green squares, drawn by hand " * 12)  # the last is cut at 77 tokens
_TIMESTEPS = (999.0, 500.0, 1.0)
_MIXED_TIMESTEPS = (901.0, 301.0, 20.5)  # each row at its own, and one between two steps

Inputs = dict[str, Tensor]


def record(network: Network, inputs: Mapping[str, Inputs]) -> list[GoldenCase]:
    """Run the network in PyTorch on each case."""
    cases = []
    for name, tensors in inputs.items():
        with torch.no_grad():
            answer = network.module(*(tensors[spec.name] for spec in network.inputs))
        answers = answer if isinstance(answer, tuple) else (answer,)
        outputs = {spec.name: tensor.numpy() for spec, tensor in zip(network.outputs, answers, strict=True)}
        cases.append(GoldenCase(name, {key: tensor.numpy() for key, tensor in tensors.items()}, outputs))
    return cases


def save_cases(cases: list[GoldenCase], path: Path) -> None:
    """Write cases as tensors named `CASE/inputs/NAME` and `CASE/outputs/NAME`."""
    tensors = {}
    for case in cases:
        for side, arrays in (("inputs", case.inputs), ("outputs", case.outputs)):
            for name, array in arrays.items():
                tensors[f"{case.name}/{side}/{name}"] = np.ascontiguousarray(array)
    path.write_bytes(save(tensors))


def case_inputs(model: SourceModel, component: str) -> dict[str, Inputs]:
    """The recorded inputs of a component, by case: two row counts; two sizes, one not square and with longer texts."""
    big, small = sizes(model)
    if component == TEXT_ENCODER:
        return {f"rows{len(p)}": {"inputs_embeds": token_vectors(model, *p)} for p in (_PROMPTS, (PROMPT,))}
    if component == UNET:
        cases = {
            f"rows2-{_name(big)}-t{t:g}": _unet_inputs(model, big, (t, t), f"{component} {t:g}") for t in _TIMESTEPS
        }
        return cases | {
            f"rows3-{_name(small)}-mixed": _unet_inputs(model, small, _MIXED_TIMESTEPS, component, chunks=2)
        }
    rows = {f"rows1-{_name(big)}": (1, big), f"rows2-{_name(small)}": (2, small)}
    if component == VAE_ENCODER:
        return {name: {"sample": _picture(n, size, name)} for name, (n, size) in rows.items()}
    return {
        name: {"latent_sample": noise(n, latent_size(model, size), name) / model.scaling_factor}
        for name, (n, size) in rows.items()
    }


def size_multiple(model: SourceModel) -> int:
    """What a picture's width and height must be multiples of, in pixels."""
    return unet_multiple(model.unet) * vae_scale_factor(next(iter(model.vaes.values())))


def sizes(model: SourceModel) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) in pixels of the larger, square case and of the smaller, wide one."""
    multiple = size_multiple(model)
    side = max(multiple, min(model.default_size, MAX_SIDE) // multiple * multiple)
    height = max(multiple, side // 2 // multiple * multiple)
    return (side, side), (height, height + multiple)


def latent_size(model: SourceModel, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in latents of a picture of `size` pixels."""
    f = vae_scale_factor(next(iter(model.vaes.values())))
    return size[0] // f, size[1] // f


def token_ids(model: SourceModel, *prompts: str) -> Tensor:
    """Token ids as SD feeds them: (n, 77) int64, cut and padded."""
    ids = model.tokenizer(
        list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids.to(torch.int64)  # type: ignore[no-any-return]


def token_vectors(model: SourceModel, *prompts: str) -> Tensor:
    """What the text encoder is fed: (n, 77, width), rows of its token table."""
    return model.text_encoder.get_input_embeddings().weight.detach()[token_ids(model, *prompts)]  # type: ignore[no-any-return]


def text_states(model: SourceModel, *prompts: str) -> Tensor:
    """What the UNet is conditioned on: (n, 77, width)."""
    with torch.no_grad():
        return model.text_encoder(token_ids(model, *prompts)).last_hidden_state  # type: ignore[no-any-return]


def noise(rows: int, size: tuple[int, int], seed: str, channels: int = 4) -> Tensor:
    """Normal noise (rows, channels, *size); the seed is a word, so that every case has its own."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return torch.randn(rows, channels, *size, generator=generator)


def _unet_inputs(
    model: SourceModel, size: tuple[int, int], timesteps: tuple[float, ...], seed: str, chunks: int = 1
) -> Inputs:
    """Of `chunks` texts a row is conditioned on, each is 77 tokens: a prompt too long for one."""
    rows = len(timesteps)
    texts = [text_states(model, *(_PROMPTS[(row + chunk) % rows] for row in range(rows))) for chunk in range(chunks)]
    return {
        "sample": noise(rows, latent_size(model, size), seed, int(model.unet.config.in_channels)),
        "timestep": torch.tensor(timesteps),
        "encoder_hidden_states": torch.cat(texts, dim=1),
    }


def _picture(rows: int, size: tuple[int, int], seed: str) -> Tensor:
    """Noise as bright as a picture: (rows, 3, *size) in [-1, 1]."""
    return noise(rows, size, seed, channels=3).clamp(-1, 1)


def _name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"  # width first, as people say it
