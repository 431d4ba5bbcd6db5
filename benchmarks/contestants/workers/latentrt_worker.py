"""latentrt itself: `Pipeline`, as `latentrt generate` uses it. Run as `python -m workers.latentrt_worker`."""

from __future__ import annotations

import math
import warnings
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np

from latentrt.engines import store
from latentrt.engines.manifest import TEXT_ENCODER, UNET, decoder_component
from latentrt.engines.profile import ANY
from latentrt.runtime.drawing import Drawing
from latentrt.runtime.picture import png_bytes
from latentrt.runtime.pipeline import Pipeline
from latentrt.runtime.prompt.token_table import TokenTable
from latentrt.runtime.request import Request, plan
from latentrt.runtime.submission import Submission
from latentrt.runtime.worker import Worker

from .contestant import Array, Asked, Contestant, Drawn, by_clients, counted
from .protocol import serve

VAE_DECODER = "vae_decoder"
_UNIT_VARIANCE = frozenset({"ddim", "dpmpp_2m"})  # samplers whose latents diffusers divides by sqrt(1 + sigma^2)


class LatentrtContestant(Contestant):
    """Options: `engine` and `precision`, as `Pipeline.open` takes them."""

    packages = ("latentrt", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "tensorrt-rtx", "numpy")
    components = (TEXT_ENCODER, UNET, VAE_DECODER)

    def open(self, model: Path, options: dict[str, Any]) -> None:
        """As `Contestant.open`: `model` is a bundle, with the engines that were built in it."""
        warnings.simplefilter("ignore")
        self._pipeline = Pipeline.open(model, safety_checker=False, **options)
        self._bundle = self._pipeline.bundle
        self._names = {name: name for name in (TEXT_ENCODER, UNET)}
        self._names[VAE_DECODER] = decoder_component(self._bundle.manifest.default_decoder)
        self._engines = {role: self._pipeline.engines[name] for role, name in self._names.items()}
        self._table = TokenTable(self._bundle.file(self._bundle.manifest.token_embedding))
        chosen = self._pipeline.chosen_because
        built = {role: "built" if self._folder(role).is_dir() else "from its graph" for role in self._names}
        keys = {role: engine.key for role, engine in self._engines.items()}
        shapes = {role: "" if key.profile == ANY else f" for {key.profile}" for role, key in keys.items()}
        self.notes = [
            f"{role}: {key.backend} {key.precision}, {built[role]}{shapes[role]}" for role, key in keys.items()
        ]
        self.notes += [chosen] if chosen else []

    def draw(self, asked: Asked) -> Drawn:
        """As `Contestant.draw`: each picture is a request of its own, and they share calls of the UNet."""
        with ExitStack() as stack:
            for role, engine in self._engines.items():
                stack.enter_context(counted(self.clock, engine, "run", role))
            drawings = [self._pipeline.start(request) for request in _requests(asked)]
            after: list[list[Array]] = [[] for _ in drawings]
            while self._pipeline.step():
                if asked.steps:
                    for drawing, latents in zip(drawings, after, strict=True):
                        _note(drawing, latents, unit_variance=asked.sampler in _UNIT_VARIANCE)
            results = [self._pipeline.finish(drawing) for drawing in drawings]
        rows = [[*latents, result.latents] for latents, result in zip(after, results, strict=True)]
        return Drawn(
            images=np.stack([np.asarray(result.images[0]) for result in results]),
            latents=np.concatenate([result.latents for result in results]),
            steps=np.concatenate([np.stack(row) for row in rows], axis=1) if asked.steps else None,
        )

    def component(self, name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        """As `Contestant.component`; token ids become vectors first, as in a picture."""
        engine = self._engines[name]
        if name == TEXT_ENCODER:
            vectors = [[self._table.vector(int(token)) for token in row] for row in feeds["input_ids"]]
            feeds = {engine.inputs[0].name: np.array(vectors)}
        return engine.run(feeds)

    def load(self, ask: list[Asked], clients: int) -> list[float]:
        """As `Contestant.load`: by the thread of `Pipeline.submit`, where a request joins the others at any step.

        The thread is of this call alone, so that `draw` has the pipeline again afterwards.
        """
        worker = Worker(self._pipeline.stages)

        def draw(asked: Asked) -> None:
            [request] = _requests(asked)
            submission = Submission(request, plan(request, self._bundle.manifest), None)
            worker.submit(submission)
            png_bytes(submission.result().images[0])

        try:
            return by_clients(draw, ask, clients)
        finally:
            worker.close(finish=False)

    def files(self, model: Path) -> int:  # noqa: ARG002 - a bundle holds more than was opened
        """As `Contestant.files`: of each network its engine, or where none was built its graph; and the tokenizer."""
        manifest = self._bundle.manifest
        size = sum(manifest.files[path].size for path in (manifest.tokenizer, manifest.token_embedding))
        for role, name in self._names.items():
            component = manifest.components[name]
            if self._folder(role).is_dir():
                size += super().files(self._folder(role))
            else:
                paths = (component.graph, *component.weights)
                size += sum(manifest.files[path].size for path in paths if path is not None)
        return size

    def _folder(self, role: str) -> Path:
        """Where the engine of a network lies, if it was built."""
        return store.engine_folder(self._bundle, self._engines[role].key)


def _requests(asked: Asked) -> list[Request]:
    return [
        Request(
            prompt=prompt,
            negative_prompt=asked.negative_prompt,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            seed=seed,
            width=asked.width,
            height=asked.height,
            sampler=asked.sampler,
            latents=None if asked.latents is None else asked.latents[index : index + 1],
        )
        for index, (prompt, seed) in enumerate(zip(asked.prompts, asked.seeds, strict=True))
    ]


def _note(drawing: Drawing, latents: list[Array], *, unit_variance: bool) -> None:
    """Keep where a sampler asks about next: the latents after a step, all but the last one's."""
    if drawing.job.done:
        return
    query = drawing.job.question.query
    if query.step > len(latents):
        scale = 1 / math.sqrt(1 + query.sigma**2) if unit_variance else 1.0
        latents.append(query.x * np.float32(scale))


if __name__ == "__main__":
    serve(LatentrtContestant())
