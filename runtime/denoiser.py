"""The model behind the samplers: it answers "what is the clean latent?" for many requests with one UNet call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.distilled import guidance_embedding, guidance_width
from latentrt.engines.engine import Engine
from latentrt.engines.manifest import TIMESTEP_COND
from latentrt.engines.tensor import check_feeds

from .guidance import Guidance
from .query import Query

Prediction = Literal["epsilon", "v_prediction"]
RowLimit = Callable[[Mapping[str, int]], int]


@dataclass(frozen=True, eq=False)
class Conditioning:
    """What a request asks the model to draw: text embeddings (77 * k, width) float32 of one k, and how strongly.

    `negative` and `guidance` are given together. Without them, and where guidance does not act, a latent costs one row
    instead of two. A UNet that guidance was distilled into is told `told_scale` instead.
    """

    positive: NDArray[np.float32]
    negative: NDArray[np.float32] | None = None
    guidance: Guidance | None = None
    told_scale: float = 1.0

    def guidance_at(self, sigma: float) -> Guidance | None:
        """The guidance, where it acts at this noise level."""
        return self.guidance if self.guidance is not None and self.guidance.acts_at(sigma) else None


@dataclass(frozen=True, eq=False)
class Question:
    """An open query together with the conditioning of the request that asks it."""

    query: Query
    conditioning: Conditioning

    @property
    def texts(self) -> list[NDArray[np.float32]]:
        """The embeddings to ask with: the negative prompt's first, as diffusers orders them, where guidance acts."""
        conditioning = self.conditioning
        if conditioning.negative is None or conditioning.guidance_at(self.query.sigma) is None:
            return [conditioning.positive]
        return [conditioning.negative, conditioning.positive]

    @property
    def rows(self) -> int:
        """Rows of the UNet that an answer takes."""
        return len(self.query.x) * len(self.texts)


class Denoiser:
    """Knows what samplers need not: input scaling, eps or v prediction, and classifier-free guidance.

    `max_rows` bounds the rows of one UNet call, for all sizes or by the call's free dimensions; more questions take
    more calls.
    """

    def __init__(self, unet: Engine, prediction: Prediction, max_rows: int | RowLimit) -> None:
        self._unet = unet
        self._prediction = prediction
        self._max_rows = max_rows
        self._output = unet.outputs[0].name
        self._guidance_width = guidance_width(unet.inputs)

    def answer(self, questions: Sequence[Question]) -> list[NDArray[np.float32]]:
        """The clean latents, seen from each question's `x` at its sigma; latents have one size, texts one length.

        Returns one (n, 4, h, w) float32 array for each question, of the shape of its `x`.
        """
        parts = [_parts(question) for question in questions]
        outputs = self._run([part for some in parts for part in some])
        answers, start = [], 0
        for question, some in zip(questions, parts, strict=True):
            end = start + len(question.query.x) * len(some)
            answers.append(self._denoised(question, outputs[start:end]))
            start = end
        return answers

    def _run(self, parts: Sequence[tuple[NDArray[np.float32], ...]]) -> NDArray[np.float32]:
        sample, timestep, text, scale = (np.concatenate(column) for column in zip(*parts, strict=True))
        feeds = {"sample": sample, "timestep": timestep, "encoder_hidden_states": text}
        if self._guidance_width is not None:
            feeds[TIMESTEP_COND] = guidance_embedding(scale, self._guidance_width)
        most = self._max_rows
        if not isinstance(most, int):
            most = most(check_feeds(self._unet.name, self._unet.inputs, feeds))
        outputs = []
        for start in range(0, len(sample), most):
            chunk = {name: array[start : start + most] for name, array in feeds.items()}
            outputs.append(self._unet.run(chunk)[self._output])
        return outputs[0] if len(outputs) == 1 else np.concatenate(outputs)

    def _denoised(self, question: Question, output: NDArray[np.float32]) -> NDArray[np.float32]:
        x, sigma = question.query.x, question.query.sigma
        predicted = _guided(output, question)
        if self._prediction == "epsilon":
            return x - np.float32(sigma) * predicted
        variance = sigma * sigma + 1.0  # v prediction: https://arxiv.org/abs/2202.00512, in variance-exploding terms
        return x * np.float32(1.0 / variance) - predicted * np.float32(sigma / math.sqrt(variance))


def _parts(question: Question) -> list[tuple[NDArray[np.float32], ...]]:
    """UNet rows for each text: latents, timesteps, texts, and the guidance scale that a distilled UNet is told."""
    query, images = question.query, len(question.query.x)
    sample = query.x * np.float32(1.0 / math.sqrt(query.sigma**2 + 1.0))  # (n, 4, h, w), unit variance
    timestep = np.full(images, query.timestep, np.float32)
    scale = np.full(images, question.conditioning.told_scale, np.float32)
    return [(sample, timestep, _each(text, images), scale) for text in question.texts]


def _each(text: NDArray[np.float32], images: int) -> NDArray[np.float32]:
    """(tokens, width) -> (images, tokens, width); copied, since numpy would interleave the rows of a broadcast one."""
    return text[None] if images == 1 else np.repeat(text[None], images, axis=0)


def _guided(output: NDArray[np.float32], question: Question) -> NDArray[np.float32]:
    guidance = question.conditioning.guidance_at(question.query.sigma)
    if guidance is None:
        return output
    images = len(output) // 2
    negative, positive = output[:images], output[images:]
    return guidance.applied(negative, positive)
