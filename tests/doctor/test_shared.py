from __future__ import annotations

from router.config import SharedSettings
from router.doctor.finding import Status
from router.doctor.shared import judge_shared
from tests.sharing.server import redis_server
from tests.sharing.test_redis import sharing

TIMEOUT_SECONDS = 10.0


async def test_a_redis_that_answers_is_told_with_who_listens() -> None:
    async with redis_server() as server:
        settings = SharedSettings(redis_url=server.url)
        (alone,) = await judge_shared(settings, TIMEOUT_SECONDS)
        assert (alone.status, "nobody listens on homing:1:load" in alone.found) == (Status.PASS, True)
        async with sharing(server, "one", "two"):
            (found,) = await judge_shared(settings, TIMEOUT_SECONDS)
            assert "2 routers listen" in found.found


async def test_a_redis_that_is_away_fails_with_the_key_that_mends_it_and_no_redis_is_no_finding() -> None:
    async with redis_server() as server:
        await server.kill()
        (found,) = await judge_shared(SharedSettings(redis_url=server.url), TIMEOUT_SECONDS)
        assert (found.status, "does not answer" in found.found) == (Status.FAIL, True)
        assert "shared.redis_url" in (found.mend or "")
    assert await judge_shared(SharedSettings(), TIMEOUT_SECONDS) == ()
