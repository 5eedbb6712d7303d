"""The routes that show the configuration in force, and by which an operator has it read again."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fastapi import Depends, FastAPI
from fastapi.responses import JSONResponse

from router.gateway.fleet_control import wants_token
from router.gateway.in_force import InForce, Reloaded, ReloadOutcome

STATUS = {
    ReloadOutcome.APPLIED: 200,
    ReloadOutcome.UNCHANGED: 200,
    ReloadOutcome.NEEDS_RESTART: 409,
    ReloadOutcome.REFUSED: 422,
}


def add_reload_control(
    application: FastAPI, in_force: InForce, reload: Callable[[str], Awaitable[Reloaded]], token: str | None
) -> None:
    """GET /homing/config, and POST /homing/reload, which wants the admin token."""

    @application.get("/homing/config")
    async def show() -> JSONResponse:
        """The configuration in force: its hash, since when, its policies, and what became of the last reload."""
        return JSONResponse(in_force.as_json())

    @application.post("/homing/reload", dependencies=[Depends(wants_token(token))])
    async def again() -> JSONResponse:
        """Read the configuration again. 409: a change needs a restart; 422: it has faults. Both change nothing."""
        ended = await reload("the operator")
        return JSONResponse(ended.as_json(), status_code=STATUS[ended.outcome])
