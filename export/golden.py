"""Record what PyTorch fp32 answers: the inputs and outputs that every engine is later checked against."""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor
from transformers import CLIPTokenizer

from latentrt.engines.distilled import guidance_embedding
from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import TEXT_ENCODER, TIMESTEP_COND, UNET, ModelFacts, is_encoder

from .vocabulary import MAX_TOKENS
from .wrappers import Network

PROMPT, NEGATIVE_PROMPT = "a red circle on a blue background", ""
MAX_SIDE = 256  # pixels: a larger picture would dominate the time of an export and show nothing more
PROMPTS = (PROMPT, NEGATIVE_PROMPT, "two small green squares, drawn by hand " * 12)  # the last is cut at 77 tokens
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


def case_inputs(
    network: Network, facts: ModelFacts, tokenizer: CLIPTokenizer, texts: Mapping[str, Tensor]
) -> dict[str, Inputs]:
    """The recorded inputs of a component, by case: two row counts; two sizes, one not square and with longer texts.

    `texts` are the states of `PROMPTS`, which the UNet's cases need.
    """
    big, small = sizes(facts)
    if network.name == TEXT_ENCODER:
        return {f"rows{len(p)}": {"inputs_embeds": token_vectors(network, tokenizer, *p)} for p in (PROMPTS, (PROMPT,))}
    if network.name == UNET:
        cases = {
            f"rows2-{_name(big)}-t{t:g}": _unet_inputs(network, latent_size(facts, big), (t, t), texts, f"{UNET} {t:g}")
            for t in _TIMESTEPS
        }
        mixed = _unet_inputs(network, latent_size(facts, small), _MIXED_TIMESTEPS, texts, UNET, chunks=2)
        return cases | {f"rows3-{_name(small)}-mixed": mixed}
    return vae_inputs(network, facts)


def vae_inputs(network: Network, facts: ModelFacts) -> dict[str, Inputs]:
    """The recorded inputs of an autoencoder's encoder or decoder, by case."""
    big, small = sizes(facts)
    pictures = {f"rows1-{_name(big)}": (1, big), f"rows2-{_name(small)}": (2, small)}
    if is_encoder(network.name):
        return {name: {"sample": _picture(n, size, name)} for name, (n, size) in pictures.items()}
    return {
        name: {"latent_sample": noise(n, latent_size(facts, size), name) / facts.scaling_factor}
        for name, (n, size) in pictures.items()
    }


def sizes(facts: ModelFacts) -> tuple[tuple[int, int], tuple[int, int]]:
    """(height, width) in pixels of the larger, square case and of the smaller, wide one."""
    multiple = facts.size_multiple
    side = max(multiple, min(facts.default_size, MAX_SIDE) // multiple * multiple)
    height = max(multiple, side // 2 // multiple * multiple)
    return (side, side), (height, height + multiple)


def latent_size(facts: ModelFacts, size: tuple[int, int]) -> tuple[int, int]:
    """(height, width) in latents of a picture of `size` pixels."""
    return size[0] // facts.vae_scale_factor, size[1] // facts.vae_scale_factor


def token_ids(tokenizer: CLIPTokenizer, *prompts: str) -> Tensor:
    """Token ids as SD feeds them: (n, 77) int64, cut and padded."""
    ids = tokenizer(
        list(prompts), padding="max_length", max_length=MAX_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids
    return ids.to(torch.int64)  # type: ignore[no-any-return]


def token_vectors(network: Network, tokenizer: CLIPTokenizer, *prompts: str) -> Tensor:
    """What the text encoder is fed: (n, 77, width), rows of its token table."""
    table = network.module.text_encoder.get_input_embeddings().weight  # type: ignore[union-attr, operator]
    return table.detach()[token_ids(tokenizer, *prompts)]  # type: ignore[no-any-return]


def text_states(network: Network, tokenizer: CLIPTokenizer, prompts: Sequence[str] = PROMPTS) -> dict[str, Tensor]:
    """What the UNet is conditioned on for each prompt: (77, width), from the text encoder."""
    with torch.no_grad():
        return {prompt: network.module(token_vectors(network, tokenizer, prompt))[0][0] for prompt in prompts}


def noise(rows: int, size: tuple[int, int], seed: str, channels: int = 4) -> Tensor:
    """Normal noise (rows, channels, *size); the seed is a word, so that every case has its own."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return torch.randn(rows, channels, *size, generator=generator)


def _unet_inputs(
    network: Network,
    size: tuple[int, int],
    timesteps: tuple[float, ...],
    texts: Mapping[str, Tensor],
    seed: str,
    chunks: int = 1,
) -> Inputs:
    """Of `chunks` texts a row is conditioned on, each is 77 tokens: a prompt too long for one."""
    rows = len(timesteps)
    widths = {spec.name: spec.shape[1] for spec in network.inputs if len(spec.shape) > 1}
    turns = [torch.stack([texts[PROMPTS[(row + turn) % rows]] for row in range(rows)]) for turn in range(chunks)]
    inputs = {
        "sample": noise(rows, size, seed, int(widths["sample"])),
        "timestep": torch.tensor(timesteps),
        "encoder_hidden_states": torch.cat(turns, dim=1),
    }
    if TIMESTEP_COND in widths:
        scales = np.linspace(1, 14, rows, dtype=np.float32)  # what a distilled UNet is trained on
        inputs[TIMESTEP_COND] = torch.from_numpy(guidance_embedding(scales, int(widths[TIMESTEP_COND])))
    return inputs


def _picture(rows: int, size: tuple[int, int], seed: str) -> Tensor:
    """Noise as bright as a picture: (rows, 3, *size) in [-1, 1]."""
    return noise(rows, size, seed, channels=3).clamp(-1, 1)


def _name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"  # width first, as people say it
