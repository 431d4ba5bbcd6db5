"""What a picture says of how it was asked for: the text that its PNG carries."""

from __future__ import annotations

from collections.abc import Sequence

from .prompt.encoder import EncodedPrompts, prompt_facts
from .request import Plan, Request
from .schedule import Schedule
from .seeds import noise_facts


def request_facts(request: Request, planned: Plan, texts: EncodedPrompts, index: int) -> dict[str, str]:
    """The facts of image `index` of a request, by name; options that are left at their default are not told."""
    count = request.num_images_per_prompt
    return {
        **_asked_facts(request),
        **noise_facts(request, index, count, given=request.latents is not None),
        **prompt_facts(request, texts),
        "image": f"{index + 1} of {count}",
        **_sampling_facts(request, planned.schedule),
        "size": f"{planned.width}x{planned.height}",
        "decoder": planned.decoder,
    }


def _asked_facts(request: Request) -> dict[str, str]:
    if request.prompt is None:
        return {"unconditional": "yes"}
    return {"prompt": request.prompt, "negative_prompt": request.negative_prompt}


def _sampling_facts(request: Request, schedule: Schedule) -> dict[str, str]:
    """The sampler, its path and the guidance; what is left at its default is not told."""
    facts = {"sampler": request.sampler, "steps": str(schedule.steps)}
    asked: dict[str, str | float | Sequence[float] | None] = {
        "spacing": request.spacing,
        "eta": request.eta,
        "timesteps": request.timesteps,
        "sigmas": request.sigmas,
    }
    if request.prompt is not None:
        facts["guidance_scale"] = str(request.guidance_scale)
        asked |= {"guidance_interval": request.guidance_interval, "guidance_rescale": request.guidance_rescale or None}
    return facts | {name: _listed(value) for name, value in asked.items() if value is not None}


def _listed(value: str | float | Sequence[float]) -> str:
    return str(value) if isinstance(value, str | float | int) else ",".join(map(str, value))
