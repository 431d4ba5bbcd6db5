"""KServe's open inference protocol, version 2: health, metadata, and `infer` with prompts as BYTES."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.exceptions import HTTPException

from latentrt.engines.errors import InputError
from latentrt.engines.version import __version__

from ..inference_tensors import INPUTS, OUTPUTS, orders_of, tensors_of
from ..problems import RESPONSES
from ..service import Service
from ..waiting import drawn
from .kserve_schema import InferRequest, ModelMetadata, ServerMetadata, TensorMetadata
from .kserve_tensors import HEADER_LENGTH, VERSION, read_request, written

BINARY = "application/octet-stream"
BODY = {  # read by hand: JSON, or JSON with binary tensors behind it
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {"schema": InferRequest.model_json_schema()},
            BINARY: {"schema": {"type": "string", "format": "binary"}},
        },
    }
}

NOT_READY: dict[int | str, dict[str, Any]] = {503: {"description": "Not now.", "content": {"application/json": {}}}}
ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The outputs.", "content": {"application/json": {}, BINARY: {}}}
}


def router(service: Service) -> APIRouter:
    """The routes under /v2; those of a model with its version in the path, or without."""
    routes = APIRouter(prefix="/v2", tags=["KServe v2"], responses=RESPONSES)

    async def check_model(model: str) -> None:
        if model != service.model_name:
            raise HTTPException(404, f"no model {model!r} here; this server has {service.model_name!r}")

    async def check_version(version: str) -> None:
        if version != VERSION:
            raise HTTPException(404, f"no version {version!r} of {service.model_name!r} here; it has {VERSION!r}")

    @routes.get("")
    async def server() -> ServerMetadata:
        """What serves, and what it knows beyond the protocol."""
        return ServerMetadata(name="latentrt", version=__version__, extensions=["binary_tensor_data"])

    @routes.get("/health/live", responses=NOT_READY)
    async def live(response: Response) -> dict[str, bool]:
        """200 unless the engines hang, or did not open."""
        response.status_code = 200 if service.failure is None else 503
        return {"live": service.failure is None}

    @routes.get("/health/ready", responses=NOT_READY)
    async def ready(response: Response) -> dict[str, bool]:
        """200 while requests are taken in."""
        response.status_code = 200 if service.ready else 503
        return {"ready": service.ready}

    model, path = _model_routes(service), "/models/{model}"
    routes.include_router(model, prefix=path, dependencies=[Depends(check_model)])
    checks = [Depends(check_model), Depends(check_version)]
    routes.include_router(model, prefix=path + "/versions/{version}", dependencies=checks)
    return routes


def _model_routes(service: Service) -> APIRouter:
    """What is asked of a model, under its path."""
    routes = APIRouter()

    @routes.get("")
    async def metadata() -> ModelMetadata:
        """The tensors that `infer` takes and gives; -1 is a size that varies."""
        return ModelMetadata(
            name=service.model_name,
            versions=[VERSION],
            platform="latentrt",
            inputs=[TensorMetadata(name=name, datatype=one.datatype, shape=[-1]) for name, one in INPUTS.items()],
            outputs=[TensorMetadata(name=name, datatype=kind, shape=shape) for name, (kind, shape) in OUTPUTS.items()],
        )

    @routes.get("/ready", responses=NOT_READY)
    async def model_ready(response: Response) -> dict[str, Any]:
        """200 while requests are taken in."""
        response.status_code = 200 if service.ready else 503
        return {"name": service.model_name, "ready": service.ready}

    @routes.post("/infer", openapi_extra=BODY, responses=ANSWERS)
    async def infer(request: Request) -> Response:
        """Draw a picture for each prompt. An input of one value holds for all, and one seed counts up."""
        asked, tensors = read_request(await request.body(), request.headers.get(HEADER_LENGTH))
        wanted = _wanted(asked)
        ticket = service.submit(orders_of(tensors, service.settings))
        pictures = await drawn(request, ticket)
        outputs = await service.pool.run(partial(tensors_of, pictures, wanted))
        body, length = await asyncio.to_thread(written, service.model_name, asked, outputs)
        if length is None:
            return Response(body, media_type="application/json")
        return Response(body, media_type=BINARY, headers={HEADER_LENGTH: str(length)})

    return routes


def _wanted(asked: InferRequest) -> list[str]:
    """The outputs that were asked for; without a word, all but `png`, which holds the same pictures again."""
    names = [one.name for one in asked.outputs]
    for name in names:
        if name not in OUTPUTS:
            raise InputError(f"outputs: no output {name!r}; there are {', '.join(OUTPUTS)}")
    return names or [name for name in OUTPUTS if name != "png"]
