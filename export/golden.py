"""Record what PyTorch fp32 answers: the inputs and outputs that every engine is later checked against."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save
from torch import Tensor
from transformers import CLIPTokenizer

from latentrt.engines.distilled import guidance_embedding
from latentrt.engines.errors import InputError
from latentrt.engines.golden import GoldenCase
from latentrt.engines.manifest import MAX_TOKENS, TEXT_ENCODER, TIMESTEP_COND, UNET, ModelFacts, is_encoder
from latentrt.engines.size import Size, check_size

from .trace import MAX_ROWS
from .wrappers import Network, TextEncoder

PROMPT, NEGATIVE_PROMPT = "a red circle on a blue background", ""
MAX_SIDE = 256  # pixels: a larger picture would dominate the time of an export and show nothing more
PROMPTS = (PROMPT, NEGATIVE_PROMPT, "two small green squares, drawn by hand " * 12)  # the last is cut at 77 tokens
_ENDS, _MIDDLE = (999.0, 1.0), 500.0  # timesteps
_MIXED_TIMESTEPS = (901.0, 301.0, 20.5)  # each row at its own, and one between two steps

Inputs = dict[str, Tensor]
Sides = tuple[int, int]  # (height, width) in pixels


@dataclass(frozen=True)
class Further:
    """Calls to record beyond the usual: at these sizes, (width, height) in pixels, and with these row counts."""

    sizes: tuple[Size, ...] = ()
    rows: tuple[int, ...] = ()


NOTHING_FURTHER = Further()


def check_further(further: Further, facts: ModelFacts) -> None:
    """Check that the model takes what is asked for.

    Raises:
        InputError: it does not.
    """
    for size in further.sizes:
        check_size(size, facts.size_multiple)
    for rows in further.rows:
        if not 1 <= rows <= MAX_ROWS:
            raise InputError(f"--golden-rows is a whole number from 1 to {MAX_ROWS}; got {rows}")


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
    network: Network,
    facts: ModelFacts,
    tokenizer: CLIPTokenizer,
    texts: Mapping[str, Tensor],
    further: Further = NOTHING_FURTHER,
) -> dict[str, Inputs]:
    """The recorded inputs of a component, by case: several row counts, and sizes of which one is not square.

    The model's own size is among them; of the UNet, which answers slowest, with one row. `texts` are the states of
    `PROMPTS`, which the UNet's cases need.
    """
    if network.name == TEXT_ENCODER:
        rows = {f"rows{n}": [PROMPTS[i % len(PROMPTS)] for i in range(n)] for n in (3, 1, *further.rows)}
        return {name: {"inputs_embeds": token_vectors(network, tokenizer, *some)} for name, some in rows.items()}
    if network.name == UNET:
        return {name: _unet_inputs(network, call, facts, texts) for name, call in _unet_calls(facts, further).items()}
    return vae_inputs(network, facts, further)


def vae_inputs(network: Network, facts: ModelFacts, further: Further = NOTHING_FURTHER) -> dict[str, Inputs]:
    """The recorded inputs of an autoencoder's encoder or decoder, by case."""
    pictures = _picture_calls(facts, further)
    if is_encoder(network.name):
        return {name: {"sample": _picture(n, size, name)} for name, (n, size) in pictures.items()}
    return {
        name: {"latent_sample": noise(n, latent_size(facts, size), name) / facts.scaling_factor}
        for name, (n, size) in pictures.items()
    }


@dataclass(frozen=True)
class UNetCall:
    """A call of the UNet to record; each row is conditioned on `chunks` texts, as by a prompt too long for one."""

    size: Sides
    timesteps: tuple[float, ...]  # one a row
    seed: str  # of the noise
    chunks: int = 1


def _unet_calls(facts: ModelFacts, further: Further) -> dict[str, UNetCall]:
    big, small = sizes(facts)
    calls = {f"rows3-{_name(small)}-mixed": UNetCall(small, _MIXED_TIMESTEPS, UNET, chunks=2)}
    wanted = [(2, small, t) for t in _ENDS] + [(2, big, _MIDDLE)]
    wanted += [(1, own_size(facts), _MIDDLE)] if own_size(facts) != big else []
    wanted += [(2, _sides(size), _MIDDLE) for size in further.sizes] + [(n, small, _MIDDLE) for n in further.rows]
    return calls | {f"rows{n}-{_name(size)}-t{t:g}": UNetCall(size, (t,) * n, f"{UNET} {t:g}") for n, size, t in wanted}


def _picture_calls(facts: ModelFacts, further: Further) -> dict[str, tuple[int, Sides]]:
    """By name: rows and size of a call of an encoder or a decoder."""
    small = sizes(facts)[1]
    calls = [(1, own_size(facts)), (2, small)]
    calls += [(1, _sides(size)) for size in further.sizes] + [(n, small) for n in further.rows]
    return {f"rows{n}-{_name(size)}": (n, size) for n, size in calls}


def own_size(facts: ModelFacts) -> Sides:
    """(height, width) in pixels of the pictures that the model was trained on."""
    side = max(facts.size_multiple, facts.default_size // facts.size_multiple * facts.size_multiple)
    return side, side


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
    assert isinstance(network.module, TextEncoder)
    table: Tensor = network.module.text_encoder.get_input_embeddings().weight
    return table.detach()[token_ids(tokenizer, *prompts)]


def prompt_vectors(network: Network, tokenizer: CLIPTokenizer) -> dict[str, Tensor]:
    """What the text encoder is fed for each of `PROMPTS`: (1, 77, width)."""
    return {prompt: token_vectors(network, tokenizer, prompt) for prompt in PROMPTS}


def text_states(network: Network, vectors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the UNet is conditioned on for each prompt: (77, width), from the text encoder."""
    with torch.no_grad():
        return {prompt: network.module(fed)[0][0] for prompt, fed in vectors.items()}


def noise(rows: int, size: tuple[int, int], seed: str, channels: int = 4) -> Tensor:
    """Normal noise (rows, channels, *size); the seed is a word, so that every case has its own."""
    generator = torch.Generator().manual_seed(zlib.crc32(seed.encode()))
    return torch.randn(rows, channels, *size, generator=generator)


def _unet_inputs(network: Network, call: UNetCall, facts: ModelFacts, texts: Mapping[str, Tensor]) -> Inputs:
    rows = len(call.timesteps)
    widths = {spec.name: spec.shape[1] for spec in network.inputs if len(spec.shape) > 1}
    text = [
        torch.cat([texts[PROMPTS[(row + chunk) % len(PROMPTS)]] for chunk in range(call.chunks)]) for row in range(rows)
    ]
    inputs = {
        "sample": noise(rows, latent_size(facts, call.size), call.seed, int(widths["sample"])),
        "timestep": torch.tensor(call.timesteps),
        "encoder_hidden_states": torch.stack(text),
    }
    if TIMESTEP_COND in widths:
        scales = np.linspace(1, 14, rows, dtype=np.float32)  # what a distilled UNet is trained on
        inputs[TIMESTEP_COND] = torch.from_numpy(guidance_embedding(scales, int(widths[TIMESTEP_COND])))
    return inputs


def _picture(rows: int, size: tuple[int, int], seed: str) -> Tensor:
    """Noise as bright as a picture: (rows, 3, *size) in [-1, 1]."""
    return noise(rows, size, seed, channels=3).clamp(-1, 1)


def _sides(size: Size) -> Sides:
    width, height = size
    return height, width


def _name(size: tuple[int, int]) -> str:
    return f"{size[1]}x{size[0]}"  # width first, as people say it
