"""A bundle, opened: prompts in, pictures out."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from latentrt.engines import backend as backends
from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.distilled import guidance_width
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.version import __version__

from .denoiser import Conditioning, Denoiser
from .loop import DenoisingLoop, Job, Step
from .picture import to_image
from .prompt.encoder import EncodedPrompts, PromptEncoder, prompt_facts
from .prompt.textual_inversion import read_textual_inversion
from .prompt.token_table import TokenTable
from .request import Plan, Request, plan
from .samplers import get_sampler
from .seeds import noise_facts, open_noise, start_noise
from .tokenizer import ClipTokenizer

MAX_ROWS = 8  # of one UNet call: four guided pictures at once


class PromptWarning(UserWarning):
    """The model does not see all of the prompt."""


@dataclass(frozen=True, eq=False)
class Result:
    """Finished pictures.

    `images` are 8-bit RGB and carry `facts[i]` as text when saved as PNG; `latents` is (n, 4, height / 8, width / 8)
    float32, before decoding, in the units that the decoder takes times `scaling_factor`.
    """

    images: list[Image]
    latents: NDArray[np.float32]
    facts: list[dict[str, str]]


@dataclass(frozen=True, eq=False)
class Drawing:
    """A request on its way: what was asked, what that means for this bundle, and its place in the loop."""

    request: Request
    plan: Plan
    texts: EncodedPrompts
    job: Job


class Pipeline:
    """Engines of one bundle, ready to draw. Open it with `Pipeline.open`; use it from one thread."""

    def __init__(self, bundle: Bundle, engine: str, max_rows: int) -> None:
        if max_rows < 1:
            raise InputError(f"max_rows is a whole number, 1 or more; got {max_rows!r}")
        self.bundle = bundle
        self._backend = backends.get_backend(engine)
        self._engines: dict[str, Engine] = {}
        self._closed = False
        self._stack = ExitStack()
        tokenizer = ClipTokenizer.from_file(bundle.file(bundle.manifest.tokenizer))
        table = TokenTable(bundle.file(bundle.manifest.token_embedding))
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            unet = self._engine(UNET)
            self._prompts = PromptEncoder(tokenizer, table, self._engine(TEXT_ENCODER), max_rows)
            on_failure.pop_all()
        self._loop = DenoisingLoop(Denoiser(unet, bundle.manifest.model.prediction_type, max_rows))

    @classmethod
    def open(cls, path: str | Path, *, engine: str = backends.DEFAULT, max_rows: int = MAX_ROWS) -> Self:
        """Open the bundle at `path` with the engines of one backend; `max_rows` bounds one UNet call.

        Engines that `latentrt build` left in the bundle are used where they fit this machine; onnxruntime opens a
        component that has none from the bundle's graph. A file is checked against its hash before it is used.

        Raises:
            BundleError: no bundle there, or a damaged one.
            EngineError: an engine is damaged or cannot be opened here.
            InputError: no engine of this name.
        """
        return cls(Bundle.open(path), engine, max_rows)

    def load_textual_inversion(self, path: str | Path, token: str | None = None) -> str:
        """Make a `.safetensors` embedding a word of later prompts; returns the word.

        The word is `token`; without one, the name in a file of diffusers' form, or else the file's name without suffix.

        Raises:
            InputError: not one embedding of this model's width, or the word is taken.
        """
        embedding = read_textual_inversion(path, token)
        self._prompts.new_tokens.add(embedding)
        return embedding.token

    def generate(self, prompt: str, **options: Any) -> Result:
        """Draw a prompt to the end; `options` are those of `Request`.

        Raises:
            InputError: an option is out of range.
            EngineError: an engine failed, or gave NaN.
        """
        return self.stream(prompt, **options).result()

    def stream(self, prompt: str, **options: Any) -> Stream:
        """Draw a prompt step by step: iterate for each `Step`, then ask for `result()`."""
        return Stream(self, Request(prompt=prompt, **options))

    def start(self, request: Request, on_step: Callable[[Step], None] | None = None) -> Drawing:
        """Take a request into the loop. It joins at the next `step()`, beside the requests already there."""
        planned = plan(request, self.bundle.manifest)
        schedule = planned.schedule
        noise = open_noise(request, planned.latent_shape[0])
        start = start_noise(request, noise, planned.latent_shape) if request.latents is None else request.latents
        x = start * np.float32(schedule.init_scale)
        sampling = get_sampler(request.sampler).sample(x, schedule, noise)
        # a distilled UNet is told the scale: it needs no second row, and takes no negative prompt
        told = guidance_width(self.bundle.component(UNET).inputs) is not None
        texts = self._prompts.encode(replace(request, guidance_scale=1.0) if told else request)
        for warning in texts.warnings:
            warnings.warn(warning, PromptWarning, stacklevel=4)
        conditioning = Conditioning(texts.positive, texts.negative, request.guidance_scale)
        job = Job(sampling, conditioning, schedule.steps, np.float32(schedule.final_scale), on_step)
        self._loop.join(job)
        return Drawing(request, planned, texts, job)

    def step(self) -> list[Job]:
        """Answer one question of every request of one size: one step, for most samplers. Empty when none is live."""
        return self._loop.step()

    def finish(self, drawing: Drawing) -> Result:
        """Decode a request whose job is done.

        Raises:
            EngineError: the job is not done or was cancelled, or its picture holds NaN.
            Exception: what ended the job, if something did.
        """
        job = drawing.job
        if not job.done:
            raise EngineError("the request is still being drawn: call step() until its job is done")
        if job.error is not None:
            raise job.error
        if job.latents is None:
            raise EngineError("the request was cancelled: it has no picture")
        facts = [self._facts(drawing, i) for i in range(len(job.latents))]
        decoded = self.decode(job.latents, drawing.plan.decoder)
        images = [to_image(picture, fact) for picture, fact in zip(decoded, facts, strict=True)]
        return Result(images, job.latents, facts)

    def decode(self, latents: NDArray[np.float32], decoder: str | None = None) -> NDArray[np.float32]:
        """Latents (n, 4, h, w) to pictures (n, 3, 8h, 8w) in about [-1, 1], float32; one at a time, to save memory."""
        manifest = self.bundle.manifest
        engine = self._engine(decoder_component(decoder or manifest.default_decoder))
        scaled = latents / np.float32(manifest.model.scaling_factor)
        outputs = [engine.run({"latent_sample": row[None]})[engine.outputs[0].name] for row in scaled]
        return np.concatenate(outputs)

    def close(self) -> None:
        """Close all engines."""
        self._closed = True
        self._engines.clear()
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _engine(self, component: str) -> Engine:
        """The open engine of a component; decoders are opened when they are first used."""
        if self._closed:
            raise EngineError("the pipeline is closed: open it again")
        if component not in self._engines:
            folder = store.find(self._backend, self.bundle, component)
            self._engines[component] = self._stack.enter_context(self._backend.open(self.bundle, component, folder))
        return self._engines[component]

    def _facts(self, drawing: Drawing, index: int) -> dict[str, str]:
        request, planned = drawing.request, drawing.plan
        used = (UNET, TEXT_ENCODER, decoder_component(planned.decoder))
        keys = " ".join(f"{component}={self._engine(component).key.id}" for component in used)
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            **noise_facts(request, index, request.num_images_per_prompt, given=request.latents is not None),
            **prompt_facts(request, drawing.texts),
            "image": f"{index + 1} of {request.num_images_per_prompt}",
            "sampler": request.sampler + (" karras" if request.karras else ""),
            "steps": str(request.num_inference_steps),
            "guidance_scale": str(request.guidance_scale),
            "size": f"{planned.width}x{planned.height}",
            "decoder": planned.decoder,
            "bundle": self.bundle.hash,
            "engine": f"{self._backend.name} {keys}",
            "latentrt": __version__,
        }


class Stream:
    """One request on its way. Iterating yields its steps; `result()` goes on to the end and decodes."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self._pipeline = pipeline
        self._steps: deque[Step] = deque()
        self._drawing = pipeline.start(request, self._steps.append)

    def __iter__(self) -> Iterator[Step]:
        """Yield each step as it is done; leaving the iteration early leaves the request in the loop."""
        while self._steps or not self._drawing.job.done:
            if self._steps:
                yield self._steps.popleft()
            else:
                self._pipeline.step()

    def result(self) -> Result:
        """Finish the request and decode it; an interruption on the way cancels it."""
        try:
            for _ in self:
                pass
        except BaseException:
            self.cancel()
            raise
        return self._pipeline.finish(self._drawing)

    def cancel(self) -> None:
        """Take the request out of the loop."""
        self._drawing.job.cancel()
