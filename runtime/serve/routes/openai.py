"""OpenAI's images API: `POST /v1/images/generations`, whole or as a stream, and `GET /v1/models`."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from PIL.Image import Image
from starlette.exceptions import HTTPException

from latentrt.engines.errors import LatentrtError

from ..picture_files import Picture, encoded
from ..problems import DEFECT, openai_error, problem_of
from ..seed_by_lot import seed_by_lot
from ..service import Service
from ..streaming import base64_text, event
from ..ticket import Ticket
from ..waiting import EventStream, drawn, watched
from .openai_schema import ImageAnswer, ImageData, ImageRequest, Model, Models, OpenAIError

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": OpenAIError, "description": words}
    for status, words in {
        400: "The request cannot be used.",
        401: "No key, or none of this server's.",
        404: "No such model.",
        408: "The body came too slowly.",
        413: "The body is too large.",
        429: "This key's share is used up; see Retry-After.",
        500: "The picture was NaN: there is none.",
        503: "Too many wait, or the engines are not ready; see Retry-After.",
        504: "Not done in time.",
    }.items()
}


def router(service: Service) -> APIRouter:
    """The routes under /v1/."""
    routes = APIRouter(prefix="/v1", tags=["OpenAI"], responses=ERRORS)
    model = Model(id=service.model_name)

    @routes.get("/models")
    async def models() -> Models:
        """The models of this server."""
        return Models(data=[model])

    @routes.get("/models/{name}")
    async def one_model(name: str) -> Model:
        """The model of this name."""
        _check_model(service, name)
        return model

    @routes.post(
        "/images/generations",
        response_model=ImageAnswer,
        responses={200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}},
    )
    async def generate(request: Request, asked: ImageRequest) -> Response:
        """Draw pictures; with `stream` as events, with up to three previews before the picture itself."""
        if asked.model is not None:
            _check_model(service, asked.model)
        asked.check()
        seed = seed_by_lot() if asked.seed is None else asked.seed
        previews = bool(asked.stream and asked.partial_images)
        ticket = service.submit(asked.orders(seed), previews=previews)
        if asked.stream:
            return EventStream(ticket, _events(service, request, ticket, asked))
        pictures = await drawn(request, ticket, asked.file_format, asked.file_quality)
        body = await service.pool.run(partial(_answer, asked, pictures))
        return Response(body, media_type="application/json")

    return routes


def _check_model(service: Service, name: str) -> None:
    if name != service.model_name:
        raise HTTPException(404, f"no model of this name here; this server has {service.model_name!r}")


def _answer(asked: ImageRequest, pictures: list[Picture]) -> bytes:
    data = [ImageData(b64_json=base64_text(one.data), seed=one.seed, flagged=one.flagged) for one in pictures]
    answer = ImageAnswer(
        created=int(time.time()), output_format=asked.file_format, size=_size(pictures[0].image), data=data
    )
    return answer.model_dump_json().encode()


async def _events(service: Service, request: Request, ticket: Ticket, asked: ImageRequest) -> AsyncIterator[bytes]:
    async with watched(request, ticket):
        try:
            async for preview in _previews(service, ticket, asked):
                yield preview
            [picture] = await ticket.pictures(asked.file_format, asked.file_quality)
        except LatentrtError as error:  # the answer's status was sent long ago
            yield _event("error", openai_error(problem_of(error) or DEFECT))
            return
        usage = {"input_tokens": 0, "input_tokens_details": {"image_tokens": 0, "text_tokens": 0}}
        usage |= {"output_tokens": 0, "total_tokens": 0}  # pictures here are not counted in tokens
        facts = {"seed": picture.seed, "flagged": picture.flagged, "usage": usage}
        yield _event("image_generation.completed", _picture(asked, picture.image, picture.data) | facts)


async def _previews(service: Service, ticket: Ticket, asked: ImageRequest) -> AsyncIterator[bytes]:
    """As many previews as were asked for, evenly over the steps; fewer where steps passed too fast to be told."""
    wanted, told = asked.partial_images or 0, 0
    if not wanted:
        return
    async for progress in ticket.progress():
        due = (wanted + 1) * progress.step // progress.steps
        if progress.preview is None or progress.step == progress.steps or due <= told or told == wanted:
            continue
        file = await service.pool.run(partial(encoded, progress.preview, asked.file_format, asked.file_quality))
        picture = _picture(asked, progress.preview, file)
        yield _event("image_generation.partial_image", picture | {"partial_image_index": told})
        told += 1


def _picture(asked: ImageRequest, image: Image, file: bytes) -> dict[str, Any]:
    return {
        "b64_json": base64_text(file),
        "created_at": int(time.time()),
        "size": _size(image),
        "quality": "auto",
        "background": "opaque",
        "output_format": asked.file_format,
    }


def _event(kind: str, data: dict[str, Any]) -> bytes:
    """As OpenAI sends it: its kind stands in the data too."""
    return event(kind, {"type": kind} | data)


def _size(image: Image) -> str:
    return f"{image.width}x{image.height}"
