"""Every error Homing raises on purpose, each with its HTTP status and OpenAI error type.

Foreign exceptions are translated once, at the edge, into one of these.
"""

from __future__ import annotations


class HomingError(Exception):
    """Base of all of ours. `status` is the HTTP status a client sees, `kind` the `type` of the OpenAI error object."""

    status = 500
    kind = "internal_error"

    def __init__(self, message: str, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code


class ConfigError(HomingError):
    """Configuration that cannot be used. `faults` are all of them, each naming file, key and remedy."""

    kind = "config_error"

    def __init__(self, faults: list[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults

    def __reduce__(self) -> tuple[type[ConfigError], tuple[list[str]]]:
        """So that it comes whole out of another process."""
        return ConfigError, (self.faults,)


class InternalError(HomingError):
    """A fault of ours that a client met."""


class BadRequest(HomingError):
    status = 400
    kind = "invalid_request_error"


class Unauthorized(HomingError):
    status = 401
    kind = "authentication_error"


class Forbidden(HomingError):
    status = 403
    kind = "permission_error"


class UnknownModel(HomingError):
    status = 404
    kind = "NotFoundError"


class UnknownReplica(HomingError):
    status = 404
    kind = "invalid_request_error"


class Conflict(HomingError):
    """What is asked for contradicts what is there."""

    status = 409
    kind = "invalid_request_error"


class UnknownRoute(HomingError):
    status = 404
    kind = "invalid_request_error"


class WrongMethod(HomingError):
    status = 405
    kind = "invalid_request_error"


class BodyTooLarge(HomingError):
    status = 413
    kind = "invalid_request_error"


class Overloaded(HomingError):
    """No place for the request. `retry_after_seconds` is computed from the drain rate."""

    status = 429
    kind = "rate_limit_error"

    def __init__(self, message: str, *, retry_after_seconds: float) -> None:
        super().__init__(message, code="overloaded")
        self.retry_after_seconds = retry_after_seconds


class NoReplica(HomingError):
    """No replica that may take the request is healthy."""

    status = 503
    kind = "service_unavailable"

    def __init__(self, message: str, *, retry_after_seconds: float = 1.0) -> None:
        super().__init__(message, code="no_replica")
        self.retry_after_seconds = retry_after_seconds


class Stopping(HomingError):
    """This process ends and has no more time for the request. Another one may answer it."""

    status = 503
    kind = "service_unavailable"
    retry_after_seconds = 1.0


class UpstreamError(HomingError):
    """A replica failed us. Subclasses tell how, because the retry rule (R 2.1) depends on it."""

    status = 502
    kind = "upstream_error"


class UpstreamTimeout(UpstreamError):
    status = 504
    kind = "timeout"
