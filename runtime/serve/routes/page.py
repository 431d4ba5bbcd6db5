"""The page at `/`, and what it asks: `GET /api/model`, and `POST /api/pictures`, a picture as it comes to be."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from latentrt.engines.errors import LatentrtError

from ...prompt.options import PromptSyntax
from ...samplers import SAMPLERS
from ..picture_files import encoded
from ..problems import DEFECT, RESPONSES, answer, problem_of
from ..seed_by_lot import seed_by_lot
from ..service import Service
from ..streaming import base64_text, event
from ..ticket import Progress, Ticket
from ..waiting import EventStream, watched

FOLDER = Path(__file__).parents[1] / "page"
FILES = {
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    "/page.js": ("page.js", "text/javascript"),
    "/page.svg": ("page.svg", "image/svg+xml"),
}
PUBLIC = frozenset(FILES)  # the page holds nothing secret; what it asks needs the key
HEADERS = {
    # pictures come as data, and the page shows them as objects of its own
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer server has a newer page
}
EVENT = {  # each of the stream; its data is JSON
    "type": "object",
    "properties": {"event": {"enum": ["progress", "picture", "error"]}, "data": {"type": "string"}},
    "required": ["event", "data"],
}
PREVIEW_QUALITY = 70  # of a JPEG: a preview has little detail to lose


class ModelInfo(BaseModel):
    """What can be asked of this server."""

    name: str
    licence: str
    samplers: list[str]
    default_sampler: str = "euler"
    decoders: list[str]
    default_decoder: str
    default_size: int
    size_multiple: int
    max_pixels: int
    default_steps: int = 20
    max_steps: int
    default_guidance_scale: float = 7.5
    max_prompt_chars: int
    previews: bool


class PictureRequest(BaseModel):
    """A picture; a field that is left out, or null, is the model's default. Without a seed one is drawn by lot."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    prompt: str
    negative_prompt: str = ""
    prompt_syntax: PromptSyntax = "plain"
    num_inference_steps: Annotated[int, Field(ge=1)] = 20
    guidance_scale: Annotated[float, Field(ge=0)] = 7.5
    sampler: str = "euler"
    decoder: str | None = None
    seed: Annotated[int, Field(ge=0)] | None = None
    width: Annotated[int, Field(ge=1)] | None = None
    height: Annotated[int, Field(ge=1)] | None = None

    def order(self) -> dict[str, Any]:
        """The fields of a `Request`."""
        return self.model_dump() | {"seed": seed_by_lot() if self.seed is None else self.seed}


def router(service: Service) -> APIRouter:
    """The page's files and the routes under /api/."""
    routes = APIRouter(tags=["page"], responses=RESPONSES)
    for path, (name, kind) in FILES.items():
        _add_file(routes, path, FOLDER / name, kind)

    @routes.get("/api/model")
    async def model() -> ModelInfo:
        """What can be asked of this server: names, defaults, limits."""
        return _info(service)

    @routes.post(
        "/api/pictures",
        response_class=StreamingResponse,
        responses={200: {"content": {"text/event-stream": {"schema": EVENT}}}},
    )
    async def picture(request: Request, asked: PictureRequest) -> EventStream:
        """Draw a picture, and tell of each step as a server-sent event; going away cancels it.

        `progress` has `step`, `steps` and a `preview` (JPEG in base64, or null). The last is `picture` with `png`
        (base64), `facts`, `seed` and `flagged`, or `error` with problem details.
        """
        ticket = service.submit([asked.order()], previews=True)
        return EventStream(ticket, _events(service, request, ticket))

    return routes


def _add_file(routes: APIRouter, path: str, file: Path, kind: str) -> None:
    content = file.read_bytes()

    @routes.get(path, include_in_schema=False)
    async def page_file() -> Response:
        return Response(content, media_type=kind, headers=HEADERS)


def _info(service: Service) -> ModelInfo:
    manifest, settings = service.manifest, service.settings
    return ModelInfo(
        name=service.model_name,
        licence=manifest.licence.name,
        samplers=list(SAMPLERS),
        decoders=list(manifest.decoders),
        default_decoder=manifest.default_decoder,
        default_size=manifest.model.default_size,
        size_multiple=manifest.model.size_multiple,
        max_pixels=settings.max_pixels,
        max_steps=settings.max_steps,
        max_prompt_chars=settings.max_prompt_chars,
        previews=settings.previews and manifest.preview is not None,
    )


async def _events(service: Service, request: Request, ticket: Ticket) -> AsyncIterator[bytes]:
    async with watched(request, ticket):
        try:
            async for progress in ticket.progress():
                yield event("progress", await service.pool.run(partial(_told, progress)))
            [picture] = await ticket.pictures()
        except LatentrtError as error:  # the answer's status was sent long ago
            yield event("error", json.loads(bytes(answer(problem_of(error) or DEFECT, request.url.path).body)))
            return
        facts = {"facts": picture.facts, "seed": picture.seed, "flagged": picture.flagged}
        yield event("picture", {"png": base64_text(picture.data)} | facts)


def _told(progress: Progress) -> dict[str, Any]:
    preview = None if progress.preview is None else base64_text(encoded(progress.preview, "jpeg", PREVIEW_QUALITY))
    return {"step": progress.step, "steps": progress.steps, "preview": preview}
