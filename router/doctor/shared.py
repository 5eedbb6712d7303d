"""Whether the Redis between routers answers, and who listens there."""

from __future__ import annotations

from router.config import SharedSettings
from router.doctor.finding import Check, Finding, failed, passed
from router.errors import ConfigError
from router.sharing.redis import Unreachable, channel, listeners


async def judge_shared(settings: SharedSettings, timeout_seconds: float) -> tuple[Finding, ...]:
    """Nothing where each router works alone."""
    if settings.redis_url is None:
        return ()
    try:
        count = await listeners(settings, timeout_seconds)
    except ConfigError as fault:
        return (failed(Check.SHARED, fault.message, "Install the package, or take shared.redis_url out."),)
    except Unreachable as fault:
        return (
            failed(
                Check.SHARED,
                f"{settings.redis_url} does not answer: {fault}; each router counts its own load alone",
                "Mend shared.redis_url or shared.password_env, or start that Redis.",
            ),
        )
    told = "nobody listens" if not count else "1 router listens" if count == 1 else f"{count} routers listen"
    return (passed(Check.SHARED, f"{settings.redis_url} answers; {told} on {channel(settings)}"),)
