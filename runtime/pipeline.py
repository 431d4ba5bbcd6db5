"""A bundle, opened: prompts in, pictures out."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from latentrt.engines.auto import AUTO, choose
from latentrt.engines.backend import DEFAULT
from latentrt.engines.bundle import Bundle
from latentrt.engines.choice import Wanted
from latentrt.engines.errors import EngineError, InputError
from latentrt.engines.manifest import Precision, decoder_component
from latentrt.engines.memory_words import parse_memory
from latentrt.engines.scratch import Scratch

from .drawing import Drawing, Result
from .loop import Job, Step
from .open_engines import OpenEngines
from .ownership import Ownership
from .prompt.textual_inversion import read_textual_inversion
from .request import Request, plan
from .residency import Limits, Residency
from .safety import SafetyWarning, switched_off
from .stages import Asked, Stages
from .stream import Stream
from .submission import Submission
from .tiling import check_tile
from .turn import Turn

MAX_ROWS = 8  # of one UNet call: four guided pictures at once


class PromptWarning(UserWarning):
    """The model does not see all of the prompt."""


class Pipeline:
    """Engines of one bundle, ready to draw. Open it with `Pipeline.open`.

    Either one thread uses it (`generate`, `stream`, `start`, `step`, `finish`), or any number of threads `submit` to
    it: from the first `submit` on, a thread of its own draws. Then `generate`, `decode` and `load_textual_inversion`
    go through that thread too, and the step-by-step calls are refused.

    `on_turn`, once set, hears of every piece of work of that thread, in that thread; it must not raise.
    """

    def __init__(
        self,
        bundle: Bundle,
        wanted: Wanted,
        *,
        max_rows: int = MAX_ROWS,
        tile: int | None = None,
        memory: int | None = None,
        safety_checker: bool = True,
    ) -> None:
        if max_rows < 1:
            raise InputError(f"max_rows is a whole number, 1 or more; got {max_rows!r}")
        check_tile(tile)
        self.bundle = bundle
        chosen, self.chosen_because = choose(bundle, wanted) if wanted.engine == AUTO else (wanted, "")
        self.wanted = replace(chosen, scratch=Scratch())  # of this pipeline alone, in whichever thread an engine opens
        limits = None if memory is None else Limits(memory, max_rows, tile, safety_checker)
        self.residency = None if limits is None else Residency(bundle, self.wanted, limits)
        self.engines = OpenEngines(bundle, self.wanted, tile, self.residency)
        self.on_turn: Callable[[Turn], None] | None = None
        with ExitStack() as on_failure:
            on_failure.callback(self.engines.close)
            self.stages = Stages(bundle, self.engines, max_rows, safety_checker=safety_checker)
            on_failure.pop_all()
        self._owner = Ownership(self.stages, self._tell)

    @classmethod
    def open(
        cls,
        path: str | Path,
        *,
        engine: str = DEFAULT,
        precision: Precision | None = None,
        engine_dir: Path | None = None,
        device: int = 0,
        max_rows: int = MAX_ROWS,
        tile: int | None = None,
        memory: int | str | None = None,
        safety_checker: bool = True,
        allow_unverified: bool = False,
        threads: int | None = None,
    ) -> Self:
        """Open the bundle at `path` with the engines of one backend; `max_rows` bounds one UNet call.

        Engines that `latentrt build` left in the bundle, or in `engine_dir`, are used where they fit this machine (its
        `device`, counted among those of the backend's kind), compute in `precision` where one is asked for, and passed
        their check. Without one, a backend that can opens the component from the bundle's graph. Of several for other
        sizes, each is opened when a request first needs it. A file is checked against its hash before it is used. An
        engine that failed `latentrt verify` is opened only with `allow_unverified`; the pictures say so.

        `engine="auto"` takes the best backend that is installed, can run here, and whose engines were built and
        verified; where none were, the best that opens graphs. `Pipeline.chosen_because` says which and why.

        With `tile` latents larger than that on a side are decoded in overlapping tiles (`runtime/tiling.py`): less
        memory, and a picture that differs a little.

        `memory`, in bytes or words such as "4GB", is what the process, or a GPU, may take (docs/memory.md).

        `threads` are what each engine computes in on a processor, for machines that have other work; all cores if not
        given. The picture is the same: in onnxruntime bit for bit, in openvino within rounding.

        The bundle's safety checker, where it has one, looks at every picture; with `safety_checker=False` none does,
        and a `SafetyWarning` says what the model's licence asks of you.

        Raises:
            BundleError: no bundle there, or a damaged one.
            EngineError: an engine is damaged, failed verification, or cannot be opened here; or none was built.
            InputError: no engine of this name, or it does not compute in this precision.
        """
        bundle = Bundle.open(path, engine_dir)
        if threads is not None and threads < 1:
            raise InputError(f"threads is a whole number, 1 or more; got {threads!r}")
        wanted = Wanted(
            engine=engine, precision=precision, device=device, allow_unverified=allow_unverified, threads=threads
        )
        if not safety_checker:
            warnings.warn(switched_off(bundle.manifest.licence), SafetyWarning, stacklevel=2)
        budget = parse_memory(memory) if isinstance(memory, str) else memory
        return cls(bundle, wanted, max_rows=max_rows, tile=tile, memory=budget, safety_checker=safety_checker)

    def load_textual_inversion(self, path: str | Path, token: str | None = None) -> str:
        """Make a `.safetensors` embedding a word of later prompts; returns the word.

        The word is `token`; without one, the name in a file of diffusers' form, or else the file's name without suffix.

        Raises:
            InputError: not one embedding of this model's width, or the word is taken.
        """
        embedding = read_textual_inversion(path, token)
        self._owner.call(lambda: self.stages.prompts.new_tokens.add(embedding))
        return embedding.token

    def generate(self, prompt: str | None = None, **options: Any) -> Result:
        """Draw a prompt to the end, or unconditionally without one; `options` are those of `Request`.

        Raises:
            InputError: an option is out of range.
            EngineError: an engine failed.
            NanPictureError: the latents or the decoded picture hold NaN or infinity.
        """
        if (worker := self._owner.shared) is not None:
            if worker.is_current:
                raise EngineError("a listener cannot wait for a picture, which its own thread would draw: submit() it")
            return self.submit(prompt, **options).result()
        return self.stream(prompt, **options).result()

    def submit(
        self, prompt: str | None = None, *, on_step: Callable[[Step], None] | None = None, **options: Any
    ) -> Submission:
        """Draw a prompt in the pipeline's own thread; to be called from any thread. Returns a future of the `Result`.

        Requests that are there together share calls of the UNet, and a later one joins at any step. `on_step` hears of
        every finished step, in that thread: while it listens, nothing is drawn. What it raises ends its own request.

        Raises:
            InputError: an option is out of range.
            EngineError: the pipeline is closed, or requests of `start` or `stream` are still being drawn.
        """
        request = Request(prompt=prompt, **options)
        submission = Submission(request, plan(request, self.bundle.manifest), on_step)
        self._owner.worker().submit(submission)
        return submission

    @property
    def failed(self) -> BaseException | None:
        """What ended the pipeline's own thread, or an engine's last call; None while all is well.

        Whoever waited got the same error. A pipeline whose thread ended, or whose engine fails again, is to be opened
        anew.
        """
        worker = self._owner.shared
        return None if worker is None else worker.failed

    @property
    def busy_since(self) -> float | None:
        """When the pipeline's own thread began what it does now, on `time.monotonic`'s clock; None while it waits.

        Each step is begun anew, so whoever finds the same moment again and again knows of a call that never returns.
        """
        worker = self._owner.shared
        return None if worker is None else worker.busy_since

    def stream(self, prompt: str | None = None, **options: Any) -> Stream:
        """Draw a prompt step by step: iterate for each `Step`, then ask for `result()`."""
        return Stream(self, Request(prompt=prompt, **options))

    def start(self, request: Request, on_step: Callable[[Step], None] | None = None) -> Drawing:
        """Take a request into the loop. It joins at the next `step()`, beside the requests already there."""
        with self._owner.held():
            [drawing] = self.stages.take_in([Asked(request, on_step)])
        if isinstance(drawing, Exception):
            raise drawing
        for warning in drawing.texts.warnings:
            warnings.warn(warning, PromptWarning, stacklevel=4)
        return drawing

    def step(self) -> list[Job]:
        """Answer one question each of the requests that share the next call: one step, for most samplers.

        Empty when no request is live.
        """
        with self._owner.held():
            return self.stages.step()

    def finish(self, drawing: Drawing) -> Result:
        """Decode a request whose job is done, and have the pictures checked.

        Raises:
            EngineError: the job is not done or was cancelled, or an engine failed.
            NanPictureError: the latents or the decoded picture hold NaN or infinity.
            Exception: what ended the job, if something did.
        """
        with self._owner.held():
            return self.stages.finish(drawing)

    def decode(self, latents: NDArray[np.float32], decoder: str | None = None) -> NDArray[np.float32]:
        """Latents (n, 4, h, w) to pictures (n, 3, 8h, 8w) in about [-1, 1], float32; small ones share calls.

        What it gives is not checked for safety.
        """
        name = decoder_component(decoder or self.bundle.manifest.default_decoder)
        return self._owner.call(lambda: self.engines.decode(name, latents))

    def close(self, *, finish: bool = True) -> None:
        """Close all engines. What was submitted is drawn to its end first, or with `finish=False` cancelled.

        Leaving a `with` block by an error cancels.
        """
        self._owner.close(finish=finish)
        self.engines.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close(finish=error is None)

    def _tell(self, turn: Turn) -> None:
        if self.on_turn is not None:
            self.on_turn(turn)
