"""PyTorch: diffusers' own pipeline, as it comes or compiled; on a GPU if there is one.

Run as `python -m workers.torch_worker`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from diffusers import StableDiffusionPipeline

from .contestant import Array, Asked, Contestant, Drawn
from .diffusers_pictures import Pictures
from .protocol import serve


class TorchContestant(Contestant):
    """Options: `dtype` "float32", "bfloat16" or "float16"; `channels_last`; `compile`: its UNet and decoder."""

    packages = ("torch", "diffusers", "transformers", "accelerate", "numpy")
    components = ("text_encoder", "unet", "vae_decoder")

    def open(self, model: Path, options: dict[str, Any]) -> None:
        """As `Contestant.open`: `model` is a diffusers folder."""
        self._dtype = getattr(torch, options["dtype"])
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        pipeline = StableDiffusionPipeline.from_pretrained(model, torch_dtype=self._dtype, local_files_only=True)
        pipeline.to(self._device)
        self._channels_last = bool(options.get("channels_last"))
        if self._channels_last:
            pipeline.unet.to(memory_format=torch.channels_last)
            pipeline.vae.to(memory_format=torch.channels_last)
        if options.get("compile"):
            mode = "max-autotune" if self._device == "cuda" else "default"
            pipeline.unet = torch.compile(pipeline.unet, mode=mode)
            pipeline.vae.decode = torch.compile(pipeline.vae.decode, mode=mode)
        self._pipeline = pipeline
        networks = [
            (pipeline.text_encoder, "forward", "text_encoder"),
            (pipeline.unet, "forward", "unet"),
            (pipeline.vae, "decode", "vae_decoder"),
        ]
        # a GPU's calls return before they are done: to clock them would hold it up
        self._pictures = Pictures(pipeline, self._dtype, networks if self._device == "cpu" else [])
        self.notes = [f"on {self._device}, {torch.get_num_threads()} threads"]

    def draw(self, asked: Asked) -> Drawn:
        """As `Contestant.draw`."""
        return self._pictures.draw(asked, self.clock)

    def component(self, name: str, feeds: dict[str, Array]) -> dict[str, Array]:
        """As `Contestant.component`."""
        given = {key: torch.from_numpy(array).to(self._device) for key, array in feeds.items()}
        with torch.no_grad():
            if name == "text_encoder":
                answer = {"last_hidden_state": self._pipeline.text_encoder(given["input_ids"]).last_hidden_state}
            elif name == "unet":
                sample, text = self._cast(given["sample"]), given["encoder_hidden_states"].to(self._dtype)
                answer = {"out_sample": self._pipeline.unet(sample, given["timestep"], text, return_dict=False)[0]}
            else:
                latents = self._cast(given["latent_sample"])
                answer = {"sample": self._pipeline.vae.decode(latents, return_dict=False)[0]}
        return {key: tensor.float().cpu().numpy() for key, tensor in answer.items()}

    def gpu_peak(self) -> int | None:
        """As `Contestant.gpu_peak`: what PyTorch's allocator took."""
        return torch.cuda.max_memory_reserved() if self._device == "cuda" else None

    def _cast(self, tensor: torch.Tensor) -> torch.Tensor:
        memory_format = torch.channels_last if self._channels_last else torch.contiguous_format
        return tensor.to(self._dtype, memory_format=memory_format)


if __name__ == "__main__":
    serve(TorchContestant())
