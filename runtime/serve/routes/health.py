"""For whoever watches the server: is it alive, does it take requests, what are its figures."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from ..metrics import CONTENT_TYPE
from ..service import Service


class Health(BaseModel):
    """How the server is."""

    status: Literal["starting", "ready", "not ready", "draining", "failed"]
    model: str
    waiting: int
    live: int


def router(service: Service) -> APIRouter:
    """`/healthz`, `/readyz` and `/metrics`."""
    routes = APIRouter(tags=["health"])

    def health() -> Health:
        return Health(status=service.state, model=service.model_name, waiting=service.waiting, live=service.begun)

    @routes.get("/healthz", responses={503: {"model": Health, "description": "Start the process anew."}})
    async def alive(response: Response) -> Health:
        """200 unless the engines hang, or did not open: then the process ends, and another has to take its place."""
        response.status_code = 200 if service.failure is None else 503
        return health()

    @routes.get("/readyz", responses={503: {"model": Health, "description": "Not now."}})
    async def ready(response: Response) -> Health:
        """200 while requests are taken in: the engines gave finite numbers, and the server is not stopping."""
        response.status_code = 200 if service.ready else 503
        return health()

    @routes.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """The figures, for Prometheus."""
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})

    return routes
