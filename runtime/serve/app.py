"""The HTTP application: routes, the handlers of errors, and what stands before them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from latentrt.engines.errors import LatentrtError
from latentrt.engines.version import __version__

from .middleware import BoundedBody, Keyed, KnownHost, Watched
from .problems import DEFECT, answer, problem_of
from .routes import automatic1111, health, kserve, openai, page
from .service import Service

# paths that need no API key
PUBLIC = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"}) | page.PUBLIC
ROUTERS = (
    health.router,
    openai.router,
    page.router,
    automatic1111.router,
    kserve.router,
)


def create_app(service: Service) -> FastAPI:
    """The application around a service: it opens the engines when it starts, and closes them when it ends."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        service.start()
        yield
        await service.close()

    app = FastAPI(
        title="latentrt",
        version=__version__,
        summary="Stable Diffusion 1.5 as verified engines.",
        lifespan=lifespan,
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
    )
    for router in ROUTERS:
        app.include_router(router(service))
    for kind in (HTTPException, RequestValidationError, LatentrtError):
        app.add_exception_handler(kind, _answered)
    settings = service.settings
    app.add_middleware(BoundedBody, most=settings.max_body_bytes, seconds=settings.body_timeout)
    if settings.api_keys is not None:
        app.add_middleware(Keyed, keys=settings.api_keys, public=PUBLIC)
    if settings.allowed_hosts is not None:
        app.add_middleware(KnownHost, hosts=settings.allowed_hosts)
    app.add_middleware(Watched, service=service)  # the last one added stands first
    return app


async def _answered(request: Request, error: Exception) -> Response:
    return answer(problem_of(error) or DEFECT, request.url.path)
