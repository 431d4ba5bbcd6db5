"""OpenVINO GenAI: its Text2ImagePipeline. Run as `python -m workers.genai_worker`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from .contestant import Array, Asked, Contestant, Drawn
from .protocol import serve

SAMPLERS = {"euler": ("EULER_DISCRETE", "EulerDiscreteScheduler"), "ddim": ("DDIM", "DDIMScheduler")}
_MILLISECONDS = 1e-3


class GenaiContestant(Contestant):
    """Options: `precision`, OpenVINO's `INFERENCE_PRECISION_HINT`; None leaves it the library's own choice."""

    torch_noise = False  # its own class for it asks for torch
    packages = ("openvino-genai", "openvino", "openvino-tokenizers", "numpy")

    def prepare(self, source: Path, target: Path, options: dict[str, Any]) -> None:  # noqa: ARG002 - weights stay fp32
        """As `Contestant.prepare`: optimum-intel's exporter, as `optimum-cli export openvino` calls it, in fp32.

        The exporter writes one scheduler, with the spacing that diffusers' PNDM class has. Others are beside it, each
        with that of its own class.
        """
        import diffusers  # noqa: PLC0415 - here and below: in the exporter's environment alone
        from optimum.exporters.openvino import main_export  # noqa: PLC0415
        from optimum.intel import OVConfig  # noqa: PLC0415

        main_export(
            str(source),
            output=target,
            task="text-to-image",
            local_files_only=True,
            ov_config=OVConfig(dtype="fp32"),
            convert_tokenizer=True,
        )
        stated = diffusers.PNDMScheduler.load_config(source / "scheduler")
        for name, (_, sampler) in SAMPLERS.items():
            getattr(diffusers, sampler).from_config(stated).save_pretrained(target / "samplers" / name)

    def open(self, model: Path, options: dict[str, Any]) -> None:
        """As `Contestant.open`."""
        import openvino_genai  # noqa: PLC0415 - in the runtime's environment alone

        self._genai = openvino_genai
        self._model = model
        precision = options.get("precision")
        hint = {} if precision is None else {"INFERENCE_PRECISION_HINT": precision}
        self._pipeline = openvino_genai.Text2ImagePipeline(model, "CPU", **hint)
        self._sampler: str | None = None
        self.notes = [f"inference precision {precision or 'left to OpenVINO'}"]

    def draw(self, asked: Asked) -> Drawn:
        """As `Contestant.draw`: pictures of one prompt at once, of several one after another."""
        self._choose(asked.sampler)
        if len(set(asked.prompts)) == 1 and asked.latents is not None:
            return self._drawn(asked, asked.prompts[0], self._given(asked.latents), len(asked.prompts))
        drawn = [
            self._drawn(asked, prompt, self._generator(asked, index), 1) for index, prompt in enumerate(asked.prompts)
        ]
        return Drawn(
            np.concatenate([one.images for one in drawn]),
            np.concatenate([one.latents for one in drawn]),
            None if drawn[0].steps is None else np.concatenate([one.steps for one in drawn], axis=1),
        )

    def _choose(self, sampler: str) -> None:
        if sampler == self._sampler:
            return
        if sampler not in SAMPLERS:
            raise ValueError(f"OpenVINO GenAI has no {sampler} as diffusers has it; it has {', '.join(SAMPLERS)}")
        kind = getattr(self._genai.Scheduler.Type, SAMPLERS[sampler][0])
        config = self._model / "samplers" / sampler / "scheduler_config.json"
        self._pipeline.set_scheduler(self._genai.Scheduler.from_config(config, kind))
        self._sampler = sampler

    def _generator(self, asked: Asked, index: int) -> Any:
        if asked.latents is None:
            return self._genai.CppStdGenerator(asked.seeds[index])
        return self._given(asked.latents[index : index + 1])

    def _given(self, noise: Array) -> Any:
        """A generator that draws the noise it was given."""
        import openvino  # noqa: PLC0415 - see above

        class Given(self._genai.Generator):  # type: ignore[misc, name-defined] # its base is known when it runs
            def next(self) -> float:
                raise RuntimeError("it gives whole tensors alone")

            def randn_tensor(self, shape: Any) -> Any:
                return openvino.Tensor(np.ascontiguousarray(noise.reshape([*shape])))

        return Given()

    def _drawn(self, asked: Asked, prompt: str, generator: Any, count: int) -> Drawn:
        after: list[Array] = []

        def on_step(_step: int, _steps: int, latents: Any) -> bool:
            if not asked.steps:
                after.clear()
            after.append(np.array(latents.data, np.float32))
            return False

        guided = {"negative_prompt": asked.negative_prompt} if asked.guidance_scale > 1 else {}
        started = time.perf_counter()
        images = self._pipeline.generate(
            prompt,
            num_images_per_prompt=count,
            num_inference_steps=asked.num_inference_steps,
            guidance_scale=asked.guidance_scale,
            width=asked.width,
            height=asked.height,
            generator=generator,
            callback=on_step,
            **guided,
        )
        self._count(started)
        # with Euler its callback is told the clean latents that a step sees: they are its latents after the last alone
        told = asked.steps and asked.sampler == "ddim"
        return Drawn(np.array(images.data), after[-1], np.stack(after) if told else None)

    def _count(self, started: float) -> None:
        """What the pipeline says of its own calls."""
        metrics = self._pipeline.get_performance_metrics()
        encoders = [_MILLISECONDS * spent for spent in metrics.get_text_encoder_infer_duration().values()]
        calls = [spent * _MILLISECONDS**2 for spent in metrics.raw_metrics.unet_inference_durations]  # microseconds
        decoder = _MILLISECONDS * metrics.get_vae_decoder_infer_duration()
        for name, seconds in {"text_encoder": encoders, "unet": calls, "vae_decoder": [decoder]}.items():
            self.clock.components.setdefault(name, []).extend(seconds)
        self.clock.encoded = self.clock.encoded or started + sum(encoders)


if __name__ == "__main__":
    serve(GenaiContestant())
