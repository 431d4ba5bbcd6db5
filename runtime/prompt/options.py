"""How a request wants its prompts read, checked."""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias, get_args

from latentrt.engines.errors import unknown_name
from latentrt.engines.manifest import TEXT_ENCODER, Manifest

from ..checks import check_count
from .weights import parse_weights

PromptSyntax: TypeAlias = Literal["plain", "weighted"]
MAX_CHUNKS = 32  # 2,400 tokens; each chunk makes every step dearer

HIDDEN_STATES = "hidden_states"  # the text encoder's output with the layers before the last


class Prompts(Protocol):
    """The fields of a request that decide what the UNet is conditioned on."""

    @property
    def prompt(self) -> str | None:
        """What to draw; None is nothing in particular."""

    @property
    def negative_prompt(self) -> str:
        """What not to draw."""

    @property
    def prompt_syntax(self) -> PromptSyntax:
        """Whether brackets mean weights."""

    @property
    def max_prompt_chunks(self) -> int:
        """How many chunks of 75 tokens a prompt may fill."""

    @property
    def clip_skip(self) -> int | None:
        """How many of the text encoder's last layers are left out."""


def check_prompt_options(prompts: Prompts, manifest: Manifest) -> None:
    """Check the fields that say how the prompts are read, and that weighted ones can be.

    Raises:
        InputError: names the field, what it expects and what it got.
    """
    if prompts.prompt_syntax not in get_args(PromptSyntax):
        raise unknown_name("prompt_syntax", str(prompts.prompt_syntax), get_args(PromptSyntax))
    check_count("max_prompt_chunks", prompts.max_prompt_chunks, 1, MAX_CHUNKS)
    if prompts.clip_skip is not None:
        outputs = {spec.name: spec for spec in manifest.components[TEXT_ENCODER].outputs}
        layers = int(outputs[HIDDEN_STATES].shape[1]) if HIDDEN_STATES in outputs else 0
        check_count("clip_skip", prompts.clip_skip, 0, layers)
    if prompts.prompt_syntax == "weighted":
        parse_weights(prompts.prompt or "")
        parse_weights(prompts.negative_prompt)
