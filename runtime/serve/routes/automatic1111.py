"""AUTOMATIC1111's API, as far as pictures from text go: `/sdapi/v1/txt2img`, what it lists, and how far it is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from fastapi import APIRouter, Body, Request
from starlette.exceptions import HTTPException

from latentrt.engines.errors import InputError

from ...exif import infotext
from ..api_keys import KEY
from ..errors import CalledOffError
from ..picture_files import Picture, encoded
from ..problems import RESPONSES
from ..service import Service
from ..streaming import base64_text
from ..ticket import Progress, Ticket
from ..waiting import watched
from .automatic1111_schema import SAMPLER_NAMES, Checkpoint, ProgressAnswer, Sampler, TextToImage, TextToImageAnswer


@dataclass
class Job:
    """A request of this API under way, and the step that was told last."""

    ticket: Ticket
    key: str | None
    progress: Progress | None = None
    interrupted: bool = False

    async def follow(self) -> None:
        """Keep the latest step until the request ends."""
        async for progress in self.ticket.progress():
            self.progress = progress


@dataclass(frozen=True)
class Jobs:
    """The requests under way; who asks with an API key sees those of that key alone."""

    live: list[Job] = field(default_factory=list)

    def own(self) -> list[Job]:
        """The caller's, the oldest first."""
        return [job for job in self.live if job.key == KEY.get()]


def router(service: Service) -> APIRouter:
    """The routes under /sdapi/v1/."""
    routes = APIRouter(prefix="/sdapi/v1", tags=["AUTOMATIC1111"], responses=RESPONSES)
    jobs = Jobs()

    @routes.post("/txt2img")
    async def txt2img(request: Request, asked: TextToImage) -> TextToImageAnswer:
        """Draw `batch_size` times `n_iter` pictures, with seed, seed + 1, ..."""
        _check_model(service, asked.override_settings)
        seed = asked.first_seed()
        job = Job(service.submit(asked.orders(seed), previews=True), KEY.get())
        pictures = await _drawn(request, job, jobs)
        return await service.pool.run(partial(_answer, asked, pictures))

    @routes.get("/samplers")
    async def samplers() -> list[Sampler]:
        """The samplers, by the names that the web UI has for them."""
        return [Sampler(name=name, aliases=[ours]) for name, ours in SAMPLER_NAMES.items()]

    @routes.get("/sd-models")
    async def models() -> list[Checkpoint]:
        """The one model of this server."""
        sha256 = service.manifest.provenance.get("source.sha256", "")
        return [Checkpoint(title=service.model_name, model_name=service.model_name, hash=sha256[:10], sha256=sha256)]

    @routes.get("/options")
    async def options() -> dict[str, str]:
        """What is set; nothing of it can be changed."""
        return _options(service)

    @routes.post("/options")
    async def set_options(wanted: dict[str, Any] = Body()) -> None:  # noqa: B008 - FastAPI's own way to name a body
        """Take options that are set already, and refuse others by name."""
        _check_model(service, wanted)

    @routes.get("/progress")
    async def progress(skip_current_image: bool = False) -> ProgressAnswer:
        """How far the caller's oldest request is, and what it looks like."""
        own = jobs.own()
        return ProgressAnswer.idle() if not own else await _progress(service, own, show=not skip_current_image)

    @routes.post("/interrupt")
    async def interrupt() -> dict[str, str]:
        """Call off all requests of the caller's; each is answered 409."""
        for job in jobs.own():
            job.interrupted = True
            job.ticket.cancel()
        return {}

    return routes


async def _drawn(request: Request, job: Job, jobs: Jobs) -> list[Picture]:
    jobs.live.append(job)
    following = asyncio.create_task(job.follow())
    try:
        async with watched(request, job.ticket):
            return await job.ticket.pictures()
    except CalledOffError:
        if job.interrupted:
            raise HTTPException(409, "the request was interrupted: there is no picture") from None
        raise
    finally:
        jobs.live.remove(job)
        following.cancel()


def _options(service: Service) -> dict[str, str]:
    return {"sd_model_checkpoint": service.model_name, "sd_vae": service.manifest.default_decoder}


def _check_model(service: Service, wanted: dict[str, Any]) -> None:
    """Refuse to change anything.

    Raises:
        InputError: names the option that is not as asked.
    """
    options = _options(service)
    for name, value in wanted.items():
        if options.get(name) != value:
            known = f"{options[name]!r}" if name in options else "no option of this server"
            raise InputError(f"option {name} is {known}, and cannot be set to {value!r}: start another server for it")


def _answer(asked: TextToImage, pictures: list[Picture]) -> TextToImageAnswer:
    first = pictures[0]
    seeds = [picture.seed for picture in pictures]
    info = {
        "prompt": asked.prompt,
        "all_prompts": [asked.prompt] * len(pictures),
        "negative_prompt": asked.negative_prompt,
        "all_negative_prompts": [asked.negative_prompt] * len(pictures),
        "seed": first.seed,
        "all_seeds": seeds,
        "width": first.image.width,
        "height": first.image.height,
        "sampler_name": asked.sampler_name,
        "cfg_scale": asked.cfg_scale,
        "steps": asked.steps,
        "batch_size": asked.batch_size,
        "index_of_first_image": 0,
        "infotexts": [_infotext(asked, picture) for picture in pictures],
        "flagged": [picture.flagged for picture in pictures],
    }
    images = [base64_text(picture.data) for picture in pictures]
    return TextToImageAnswer(images=images, parameters=asked.model_dump(), info=json.dumps(info))


def _infotext(asked: TextToImage, picture: Picture) -> str:
    """The words that the web UI writes under a picture, with its own name of the sampler."""
    sampler = asked.sampler_name or asked.sampler_index or picture.facts["sampler"]
    return infotext(picture.facts | {"sampler": sampler, "guidance_scale": f"{asked.cfg_scale:g}"})


async def _progress(service: Service, own: list[Job], *, show: bool) -> ProgressAnswer:
    job = own[0]
    done, total = job.ticket.steps
    seconds = asyncio.get_running_loop().time() - job.ticket.began
    preview = None if job.progress is None or not show else job.progress.preview
    image = None if preview is None else await service.pool.run(partial(encoded, preview))
    state = {
        "job": job.ticket.id,
        "job_no": 0,
        "job_count": len(own),
        "sampling_step": 0 if job.progress is None else job.progress.step,
        "sampling_steps": 0 if job.progress is None else job.progress.steps,
        "interrupted": job.interrupted,
        "skipped": False,
    }
    return ProgressAnswer(
        progress=done / total if total else 0.0,
        eta_relative=seconds * (total - done) / done if done else 0.0,
        state=state,
        current_image=None if image is None else base64_text(image),
    )
