"""The server as an application of Ray Serve, `latentrt.runtime.serve.ray_app:app`: replicas on one machine or many.

Each replica is a process with a `Service` and the same ASGI application as `latentrt serve`; Ray's proxies listen in
uvicorn's place. Extra `[ray]`.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

from fastapi import FastAPI
from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentrt.engines.bundle import Bundle
from latentrt.engines.errors import EngineError

from .app import create_app
from .logs import logs_on_stderr
from .ray_arguments import RayArguments
from .ray_figures import RayFigures
from .service import Service

try:
    from ray import serve
except ImportError as error:
    raise EngineError("the application on Ray Serve needs Ray: pip install 'latentrt[ray]'") from error

NAME = "latentrt"


class NamedByProxy:
    """Leaves `X-Request-ID` to Ray's proxy, which names requests too: the same header twice would be one of both."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""

        async def send_unnamed(message: Message) -> None:
            if message["type"] == "http.response.start":
                del MutableHeaders(scope=message)["X-Request-ID"]
            await send(message)

        await self._app(scope, receive, send_unnamed)


@serve.ingress()
class Replica:
    """One process with one pipeline. Ray builds it, checks it, routes to it, and ends it when its requests ended."""

    def __init__(self, arguments: RayArguments) -> None:
        self._logs = ExitStack()
        self._logs.enter_context(logs_on_stderr())  # for as long as the process lives
        opening = arguments.opening()
        self.service = Service(Bundle.open(opening.path, opening.engine_dir), arguments.settings(), opening)
        self._figures = RayFigures(self.service.metrics.registry)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """The application; Ray runs its lifespan, which opens the engines and closes them."""
        app = create_app(self.service)
        app.add_middleware(NamedByProxy)
        return app

    async def check_health(self) -> None:
        """Ray asks before the first request, and every few seconds; what is raised is why the replica is not well."""
        self._figures.tell()
        await self.service.check()


def app(args: Mapping[str, Any]) -> serve.Application:
    """The application, for `serve run`, a configuration file, or `serve.run`; `args` are those of `RayArguments`.

    Raises:
        LatentrtError: an argument is missing, unknown or out of range, or there is no bundle.
    """
    arguments = RayArguments.read(args)
    return serve.deployment(Replica, name=NAME, **arguments.deployment()).bind(arguments.of_one_replica)
