"""HTTP in; nothing is decided here. The hot routes are plain ASGI, everything else is FastAPI beside them.

A framework's routing, dependency and response objects cost more than the relay of a small answer, so the endpoints
that carry prompts bypass it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from router.errors import BadRequest, HomingError, UnknownRoute, WrongMethod
from router.fleet.replica import ServedModel
from router.fleet.roster import Roster
from router.gateway.client import Client, Receive, Send, error_body
from router.gateway.headers import Credentials
from router.gateway.readiness import Readiness
from router.prompt.request import Endpoint

HOT = {endpoint.value: endpoint for endpoint in Endpoint}

Serve = Callable[[Endpoint, Any, Receive, Send], Awaitable[None]]  # Any: an ASGI scope


class Routes:
    """The ASGI application of the public port."""

    def __init__(self, serve: Serve, control: FastAPI) -> None:
        self._serve = serve
        self._control = control

    def __call__(self, scope: Any, receive: Receive, send: Send) -> Awaitable[None]:
        endpoint = HOT.get(scope["path"])
        if endpoint is None:
            return self._control(scope, receive, send)
        if scope["method"] == "POST":
            return self._serve(endpoint, scope, receive, send)
        client = Client(scope["headers"], receive, send)
        return client.refuse(WrongMethod(f"{endpoint.path} takes POST only."), [(b"allow", b"POST")])


def control(
    roster: Roster, readiness: Readiness, credentials: Callable[[], Credentials], started_wall_seconds: float
) -> FastAPI:
    """The cold routes of the public port: models, health, readiness."""
    application = bare_application("Homing", HOT)
    add_health(application, readiness)

    def check(request: Request) -> None:
        authorization = request.headers.get("authorization")
        credentials().check(authorization.encode("latin-1") if authorization is not None else None)

    def told(model: ServedModel) -> dict[str, object]:
        return {
            "id": model.name,
            "object": "model",
            "created": int(started_wall_seconds),
            "owned_by": "homing",
            "root": model.root,
            "parent": model.base if model.adapter else None,
            "max_model_len": model.max_model_len,
        }

    @application.get("/v1/models")
    async def models(request: Request) -> Response:
        check(request)
        return JSONResponse({"object": "list", "data": [told(model) for model in roster.models()]})

    @application.get("/v1/models/{name:path}")
    async def model(request: Request, name: str) -> Response:
        check(request)
        return JSONResponse(told(roster.served(name)))

    return application


def add_health(application: FastAPI, readiness: Readiness) -> None:
    """R 2.5, on both ports."""

    @application.get("/health")
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    @application.get("/ready")
    async def ready() -> Response:
        waiting = readiness.waiting_for()
        told = {
            "ready": not waiting,
            "waiting_for": waiting,
            "coverage_ratio": readiness.coverage_ratio(),
            "waits_still_seconds": readiness.waits_still_seconds(),
        }
        return JSONResponse(told, status_code=503 if waiting else 200)


def bare_application(title: str, hot: Iterable[str] = (), openapi_url: str | None = None) -> FastAPI:
    """A FastAPI application whose own errors have OpenAI's shape too."""
    application = FastAPI(title=title, openapi_url=openapi_url, docs_url=None, redoc_url=None)

    @application.exception_handler(HomingError)
    async def ours(_request: Request, fault: HomingError) -> Response:
        return Response(error_body(fault), status_code=fault.status, media_type="application/json")

    @application.exception_handler(RequestValidationError)
    async def wrong_query(_request: Request, fault: RequestValidationError) -> Response:
        told = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in fault.errors())
        return Response(error_body(BadRequest(told)), status_code=400, media_type="application/json")

    @application.exception_handler(HTTPException)
    async def framework(request: Request, fault: HTTPException) -> Response:
        served = {*hot, *(route.path for route in application.routes if isinstance(route, APIRoute))}
        message = f"{request.method} {request.url.path}: {fault.detail}"
        if fault.status_code == 404:
            message += f". Served here: {', '.join(sorted(served))}."
        body = error_body(UnknownRoute(message, code=str(fault.status_code)))
        return Response(body, status_code=fault.status_code, media_type="application/json", headers=fault.headers)

    return application
