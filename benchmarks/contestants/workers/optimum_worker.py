"""optimum-onnx: diffusers' pipeline with its networks in ONNX Runtime. Run as `python -m workers.optimum_worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import torch
from optimum.onnxruntime import ORTStableDiffusionPipeline

from .contestant import Array, Asked, Contestant, Drawn
from .diffusers_pictures import Pictures
from .protocol import serve


class OptimumContestant(Contestant):
    """It has no options: ONNX Runtime in fp32, on a GPU where its package has one."""

    packages = ("optimum-onnx", "optimum", "onnxruntime", "diffusers", "transformers", "torch", "onnx", "numpy")
    components = ("text_encoder", "unet", "vae_decoder")

    def prepare(self, source: Path, target: Path, options: dict[str, Any]) -> None:  # noqa: ARG002 - it has none
        """As `Contestant.prepare`: optimum's own exporter, as `optimum-cli export onnx` calls it."""
        from optimum.exporters.onnx import main_export  # noqa: PLC0415 - a picture needs no exporter

        main_export(str(source), output=target, task="text-to-image", local_files_only=True, do_validation=False)

    def open(self, model: Path, options: dict[str, Any]) -> None:  # noqa: ARG002 - it has none
        """As `Contestant.open`."""
        cuda = "CUDAExecutionProvider"
        provider = cuda if cuda in ort.get_available_providers() else "CPUExecutionProvider"
        pipeline = ORTStableDiffusionPipeline.from_pretrained(
            model, export=False, provider=provider, local_files_only=True
        )
        networks = {
            "text_encoder": pipeline.text_encoder,
            "unet": pipeline.unet,
            "vae_decoder": pipeline.vae_decoder,
        }
        self._sessions = {name: network.session for name, network in networks.items()}
        calls = [(network, "forward", name) for name, network in networks.items()]
        self._pictures = Pictures(pipeline, torch.float32, calls)
        self.notes = [provider]

    def draw(self, asked: Asked) -> Drawn:
        """As `Contestant.draw`."""
        return self._pictures.draw(asked, self.clock)

    def component(self, name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        """As `Contestant.component`: one run of its session."""
        session = self._sessions[name]
        taken = {place.name: _as_taken(feeds[place.name], place) for place in session.get_inputs()}
        names = [place.name for place in session.get_outputs()]
        answer = dict(zip(names, session.run(names, taken), strict=True))
        return {"out_sample" if name == "unet" else key: array for key, array in answer.items()}


def _as_taken(array: Array, place: Any) -> Array:
    """A feed in the type and rank of the graph's input: its timestep is one number for all rows."""
    dtype = {"tensor(int32)": np.int32, "tensor(int64)": np.int64}.get(place.type, np.float32)
    if not place.shape and array.ndim:
        if len(set(array.tolist())) > 1:
            raise ValueError(f"its graph takes one {place.name} for all rows; got {array.tolist()}")
        array = array[0]
    return np.asarray(array, dtype)


if __name__ == "__main__":
    serve(OptimumContestant())
