"""The routes by which an operator adds, drains, resumes and removes replicas. They want the admin token."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Sequence
from typing import Annotated, Protocol

from fastapi import Depends, FastAPI, Header, Path
from pydantic import BaseModel, ConfigDict

from router.config import ReplicaSettings
from router.errors import Forbidden, Unauthorized
from router.fleet.replica import ReplicaId


class Told(Protocol):
    """One server and the words that hold for it."""

    @property
    def name(self) -> ReplicaId: ...
    @property
    def url(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def draining(self) -> bool: ...
    @property
    def drained_by_operator(self) -> bool: ...
    @property
    def removed_by_operator(self) -> bool: ...


class Control(Protocol):
    """The operator's hand on the fleet. All but `standings` raise UnknownReplica or Conflict, both HomingError."""

    def add(self, settings: ReplicaSettings) -> None: ...
    def drain(self, name: ReplicaId) -> None: ...
    def resume(self, name: ReplicaId) -> None: ...
    def remove(self, name: ReplicaId) -> None: ...
    def standings(self) -> Sequence[Told]: ...
    def open_requests(self, name: ReplicaId) -> int:
        """Of the server with that name, under way now; also when it has been removed."""
        ...


class Server(BaseModel):
    """One server of the fleet: an address, with one replica or as many as it has data-parallel ranks."""

    model_config = ConfigDict(extra="forbid")

    replica: str
    url: str
    source: str  # config, file, kubernetes or operator
    draining: bool  # sent nothing new
    drained_by_operator: bool
    removed_by_operator: bool  # its source tells of it still; `resume` brings it back
    open_requests: int  # under way there; 0 while draining: it may be stopped


class Servers(BaseModel):
    servers: list[Server]


Name = Annotated[str, Path(description="As /homing/servers tells it. A data-parallel rank goes with its server.")]


def add_fleet_control(application: FastAPI, control: Control, token: str | None) -> None:
    """POST /homing/replicas, DELETE /homing/replicas/NAME, POST /homing/replicas/NAME/drain and /resume, and
    GET /homing/servers, which tells who is there by whose word."""
    allowed = [Depends(wants_token(token))]

    def servers() -> list[Server]:
        return [
            Server(
                replica=one.name,
                url=one.url,
                source=one.source,
                draining=one.draining,
                drained_by_operator=one.drained_by_operator,
                removed_by_operator=one.removed_by_operator,
                open_requests=control.open_requests(one.name),
            )
            for one in control.standings()
        ]

    def server(name: str) -> Server:
        return next(one for one in servers() if one.replica == name)

    @application.get("/homing/servers")
    async def show() -> Servers:
        """The servers of the fleet, and by whose word each is in it."""
        return Servers(servers=servers())

    @application.post("/homing/replicas", dependencies=allowed, status_code=201)
    async def add(replica: ReplicaSettings) -> Server:
        """Add a server. It is asked what it is, and gets traffic once it has answered."""
        control.add(replica)
        return server(replica.name)

    @application.post("/homing/replicas/{name}/drain", dependencies=allowed)
    async def drain(name: Name) -> Server:
        """Send nothing new there; what is under way ends. It is heard and probed all the while."""
        control.drain(ReplicaId(name))
        return server(name)

    @application.post("/homing/replicas/{name}/resume", dependencies=allowed)
    async def resume(name: Name) -> Servers:
        """Take back a drain or a removal by an operator."""
        control.resume(ReplicaId(name))
        return Servers(servers=servers())

    @application.delete("/homing/replicas/{name}", dependencies=allowed)
    async def remove(name: Name) -> Servers:
        """Take a server out: nothing new is sent there, what is under way ends, and all about it is forgotten."""
        control.remove(ReplicaId(name))
        return Servers(servers=servers())


def wants_token(token: str | None) -> Callable[[str | None], None]:
    """A dependency that raises Forbidden where there is no token to give, Unauthorized for a wrong one."""

    def check(authorization: Annotated[str | None, Header()] = None) -> None:
        if token is None:
            raise Forbidden(
                "Nothing can be changed here: no admin token is configured. Name its variable in auth.admin_token_env.",
                code="no_admin_token",
            )
        scheme, _, given = (authorization or "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given.strip().encode(), token.encode()):
            raise Unauthorized("Wrong or no admin token. Send it as `Authorization: Bearer TOKEN`.")

    return check
