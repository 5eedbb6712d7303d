"""The admin port: metrics, receipts, the fleet as Homing sees it. Loopback unless configured otherwise (R 6.2)."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping

from fastapi import FastAPI, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from router.errors import HomingError
from router.gateway.fleet_control import Control, add_fleet_control
from router.gateway.in_force import InForce, Reloaded
from router.gateway.readiness import Readiness
from router.gateway.receipts import Receipts
from router.gateway.reload_control import add_reload_control
from router.gateway.routes import add_health, bare_application
from router.metrics import Metrics

LONGEST_RECORDING_SECONDS = 86_400.0


class UnknownReceipt(HomingError):
    status = 404
    kind = "invalid_request_error"


def admin(
    metrics: Metrics,
    receipts: Receipts,
    readiness: Readiness,
    fleet: Callable[[], list[Mapping[str, object]]],
    routers: Callable[[], Mapping[str, object]],
    record: Callable[[float, str | None], AsyncIterator[bytes]],
    control: Control,
    in_force: InForce,
    reload: Callable[[str], Awaitable[Reloaded]],
    admin_token: str | None,
) -> FastAPI:
    """The ASGI application of the admin port.

    `fleet` tells one entry per replica, `routers` who else routes; `record` records so many seconds of requests, to one
    model or all.
    """
    application = bare_application("Homing admin", openapi_url="/openapi.json")
    add_health(application, readiness)

    @application.get("/metrics")
    async def show_metrics() -> Response:
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @application.get("/homing/replicas")
    async def replicas() -> Response:
        return JSONResponse({"replicas": fleet()})

    @application.get("/homing/routers")
    async def show_routers() -> Response:
        return JSONResponse(routers())

    @application.get("/homing/explain/{request_id}")
    async def explain(request_id: str) -> Response:
        receipt = receipts.get(request_id)
        if receipt is None:
            raise UnknownReceipt(
                f"No receipt for {request_id}: it is not one of Homing's request ids, the request is still running, or "
                "it is older than the receipts kept. Its log line may still tell.",
                code="no_receipt",
            )
        return JSONResponse(receipt.as_json())

    @application.get("/homing/requests")
    async def requests(limit: int = Query(20, ge=1, le=1000)) -> Response:
        return JSONResponse({"requests": [receipt.as_json() for receipt in receipts.latest(limit)]})

    @application.get("/homing/record")
    async def record_requests(
        seconds: float = Query(600, gt=0, le=LONGEST_RECORDING_SECONDS), model: str | None = None
    ) -> Response:
        return StreamingResponse(record(seconds, model), media_type="application/x-ndjson")

    add_fleet_control(application, control, admin_token)
    add_reload_control(application, in_force, reload, admin_token)
    return application
