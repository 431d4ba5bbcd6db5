"""The model behind the samplers: it answers "what is the clean latent?" for many requests with one UNet call."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.distilled import guidance_embedding, guidance_width
from latentrt.engines.engine import Engine
from latentrt.engines.manifest import TIMESTEP_COND

from .query import Query

Prediction = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a request asks the model to draw: text embeddings (77 * k, width) float32 of one k, and how strongly.

    Without `negative` a latent costs one row instead of two: there is no guidance, or the UNet is told the scale.
    """

    positive: NDArray[np.float32]
    negative: NDArray[np.float32] | None = None
    guidance_scale: float = 1.0


@dataclass(frozen=True, eq=False)
class Question:
    """An open query together with the conditioning of the request that asks it."""

    query: Query
    conditioning: Conditioning

    @property
    def rows(self) -> int:
        """UNet rows that the answer costs."""
        return len(self.query.x) * (1 if self.conditioning.negative is None else 2)


class Denoiser:
    """Knows what samplers need not: input scaling, eps or v prediction, and classifier-free guidance.

    `max_rows` bounds the rows of one UNet call; more questions take more calls.
    """

    def __init__(self, unet: Engine, prediction: Prediction, max_rows: int) -> None:
        self._unet = unet
        self._prediction = prediction
        self._max_rows = max_rows
        self._output = unet.outputs[0].name
        self._guidance_width = guidance_width(unet.inputs)

    def answer(self, questions: Sequence[Question]) -> list[NDArray[np.float32]]:
        """The clean latents, seen from each question's `x` at its sigma; latents have one size, texts one length.

        Returns one (n, 4, h, w) float32 array for each question, of the shape of its `x`.
        """
        outputs = self._run([_rows(question) for question in questions])
        ends = np.cumsum([question.rows for question in questions])
        parts = np.split(outputs, ends[:-1])
        return [self._denoised(question, part) for question, part in zip(questions, parts, strict=True)]

    def _run(self, rows: Sequence[tuple[NDArray[np.float32], ...]]) -> NDArray[np.float32]:
        sample, timestep, text, scale = (np.concatenate(column) for column in zip(*rows, strict=True))
        outputs = []
        for start in range(0, len(sample), self._max_rows):
            chunk = slice(start, start + self._max_rows)
            feeds = {"sample": sample[chunk], "timestep": timestep[chunk], "encoder_hidden_states": text[chunk]}
            if self._guidance_width is not None:
                feeds[TIMESTEP_COND] = guidance_embedding(scale[chunk], self._guidance_width)
            outputs.append(self._unet.run(feeds)[self._output])
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _denoised(self, question: Question, output: NDArray[np.float32]) -> NDArray[np.float32]:
        x, sigma = question.query.x, question.query.sigma
        predicted = _guided(output, question.conditioning)
        if self._prediction == "epsilon":
            return x - np.float32(sigma) * predicted
        variance = sigma * sigma + 1.0  # v prediction: https://arxiv.org/abs/2202.00512, in variance-exploding terms
        return x * np.float32(1.0 / variance) - predicted * np.float32(sigma / math.sqrt(variance))


def _rows(question: Question) -> tuple[NDArray[np.float32], ...]:
    """A question as UNet rows: the negative prompt's first, as diffusers orders them."""
    query, conditioning = question.query, question.conditioning
    texts = [conditioning.positive] if conditioning.negative is None else [conditioning.negative, conditioning.positive]
    images = len(query.x)
    scaled = query.x * np.float32(1.0 / math.sqrt(query.sigma**2 + 1.0))  # (n, 4, h, w), unit variance
    sample = np.concatenate([scaled] * len(texts)) if len(texts) > 1 else scaled
    timestep = np.full(len(sample), query.timestep, np.float32)
    scale = np.full(len(sample), conditioning.guidance_scale, np.float32)
    return sample, timestep, np.repeat(np.stack(texts), images, axis=0), scale


def _guided(output: NDArray[np.float32], conditioning: Conditioning) -> NDArray[np.float32]:
    """Classifier-free guidance: https://arxiv.org/abs/2207.12598."""
    if conditioning.negative is None:
        return output
    negative, positive = np.split(output, 2)
    return negative + np.float32(conditioning.guidance_scale) * (positive - negative)
