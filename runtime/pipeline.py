"""A bundle, opened: prompts in, pictures out."""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from PIL.Image import Image

from latentrt.engines import backend as backends
from latentrt.engines import store
from latentrt.engines.bundle import Bundle
from latentrt.engines.engine import Engine
from latentrt.engines.errors import EngineError
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.version import __version__

from .denoiser import Conditioning, Denoiser
from .loop import DenoisingLoop, Job, Step
from .noise import TorchCpuNoise
from .picture import to_image
from .request import Canvas, Request, check_request
from .samplers import get_sampler, prepare
from .schedule import NoiseTable
from .tokenizer import ClipTokenizer, truncation_warning

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


class Pipeline:
    """Engines of one bundle, ready to draw. Open it with `Pipeline.open`; use it from one thread."""

    def __init__(self, bundle: Bundle, engine: str, max_rows: int) -> None:
        self.bundle = bundle
        self._backend = backends.get_backend(engine)
        self._engines: dict[str, Engine] = {}
        self._stack = ExitStack()
        manifest = bundle.manifest
        facts = manifest.scheduler
        self._table = NoiseTable(facts.beta_start, facts.beta_end, facts.num_train_timesteps, facts.steps_offset)
        self._tokenizer = ClipTokenizer.from_file(bundle.file(manifest.tokenizer))
        self._loop = DenoisingLoop(Denoiser(self._engine(UNET), manifest.model.prediction_type, max_rows))
        self._engine(TEXT_ENCODER)

    @classmethod
    def open(cls, path: str | Path, *, engine: str = backends.DEFAULT, max_rows: int = MAX_ROWS) -> Self:
        """Open the bundle at `path` with the engines of one backend; `max_rows` bounds one UNet call.

        Engines that `latentrt build` left in the bundle are used where they fit this machine; onnxruntime opens a
        component that has none from the bundle's graph. Every file is checked against its hash first.

        Raises:
            BundleError: no bundle there, or a damaged one.
            EngineError: an engine is damaged or cannot be opened here.
            InputError: no engine of this name.
        """
        return cls(Bundle.open(path), engine, max_rows)

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

    def start(self, request: Request, on_step: Callable[[Step], None] | None = None) -> Job:
        """Take a request into the loop. It joins at the next `step()`, beside the requests already there."""
        canvas, _ = check_request(request, self.bundle.manifest)
        schedule = prepare(request.sampler, self._table, request.num_inference_steps, request.karras)
        noise = TorchCpuNoise(request.seed)
        start = noise.normal(canvas.latent_shape) if request.latents is None else request.latents
        x = start * np.float32(schedule.init_scale)
        sampling = get_sampler(request.sampler).sample(x, schedule, noise)
        job = Job(sampling, self._conditioning(request), schedule.steps, np.float32(schedule.final_scale), on_step)
        self._loop.join(job)
        return job

    def step(self) -> list[Job]:
        """Answer one question of every request of one size: one step, for most samplers. Empty when none is live."""
        return self._loop.step()

    def finish(self, request: Request, job: Job) -> Result:
        """Decode a request whose job is done.

        Raises:
            EngineError: the job was cancelled, or the latents or pictures hold NaN.
            Exception: what ended the job, if something did.
        """
        if job.error is not None:
            raise job.error
        if job.latents is None:
            raise EngineError("the request was cancelled: it has no picture")
        canvas, decoder = check_request(request, self.bundle.manifest)
        facts = [self._facts(request, canvas, decoder, i) for i in range(len(job.latents))]
        decoded = self.decode(job.latents, decoder)
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
        if component not in self._engines:
            folder = store.find(self._backend, self.bundle, component)
            self._engines[component] = self._stack.enter_context(self._backend.open(self.bundle, component, folder))
        return self._engines[component]

    def _conditioning(self, request: Request) -> Conditioning:
        prompts = [request.prompt, request.negative_prompt] if request.guided else [request.prompt]
        tokens = [self._tokenizer.encode(prompt) for prompt in prompts]
        for cut in filter(None, (t.cut for t in tokens)):
            warnings.warn(truncation_warning(cut), PromptWarning, stacklevel=5)
        engine = self._engine(TEXT_ENCODER)
        hidden = engine.run({"input_ids": np.stack([t.ids for t in tokens])})[engine.outputs[0].name]
        return Conditioning(hidden[0], hidden[1] if request.guided else None, request.guidance_scale)

    def _facts(self, request: Request, canvas: Canvas, decoder: str, index: int) -> dict[str, str]:
        used = (UNET, TEXT_ENCODER, decoder_component(decoder))
        keys = " ".join(f"{component}={self._engine(component).key.id}" for component in used)
        return {
            "prompt": request.prompt,
            "negative_prompt": request.negative_prompt,
            "seed": str(request.seed) if request.latents is None else "latents given",
            "image": f"{index + 1} of {request.num_images_per_prompt}",
            "sampler": request.sampler + (" karras" if request.karras else ""),
            "steps": str(request.num_inference_steps),
            "guidance_scale": str(request.guidance_scale),
            "size": f"{canvas.width}x{canvas.height}",
            "decoder": decoder,
            "bundle": self.bundle.hash,
            "engine": f"{self._backend.name} {keys}",
            "latentrt": __version__,
        }


class Stream:
    """One request on its way. Iterating yields its steps; `result()` goes on to the end and decodes."""

    def __init__(self, pipeline: Pipeline, request: Request) -> None:
        self._pipeline = pipeline
        self._request = request
        self._steps: deque[Step] = deque()
        self._job = pipeline.start(request, self._steps.append)

    def __iter__(self) -> Iterator[Step]:
        """Yield each step as it is done; leaving the iteration early leaves the request in the loop."""
        while self._steps or not self._job.done:
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
        return self._pipeline.finish(self._request, self._job)

    def cancel(self) -> None:
        """Take the request out of the loop."""
        self._job.cancel()
