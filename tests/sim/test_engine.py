"""Continuous batching: the laws that hold whatever comes, and the rules by example."""

from __future__ import annotations

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from router.sim.engine import Engine, EngineLimits, Job, Output
from router.sim.timing import LLAMA3_70B_H100_TP2
from router.sim.wire import AllBlocksCleared, BlockName, BlockRemoved, BlockStored, Event


def engine(**limits: int) -> Engine:
    given_limits = {"block_count": 33, "block_size_tokens": 4} | limits
    return Engine(EngineLimits(**given_limits), LLAMA3_70B_H100_TP2, b"root")


def drain(of: Engine) -> tuple[list[Output], list[list[Event]]]:
    """Step until there is nothing to do."""
    outputs: list[Output] = []
    batches: list[list[Event]] = []
    while (due := of.next_step_at()) is not None:
        result = of.step(due)
        outputs += result.outputs
        batches += [result.events] if result.events else []
    return outputs, batches


def test_an_answer_comes_one_token_a_step_and_says_what_was_cached() -> None:
    sim = engine()
    sim.submit(Job("a", range(9), [50, 51, 52]))
    outputs, _ = drain(sim)
    assert [(o.token, o.finished, o.cached_tokens) for o in outputs] == [(50, False, 0), (51, False, 0), (52, True, 0)]
    sim.submit(Job("b", range(9), [50]))
    assert drain(sim)[0][0].cached_tokens == 8


def test_while_kept_blocks_leave_no_room_there_is_nothing_to_do_until_they_are_released() -> None:
    sim = engine(block_count=5)  # four to give
    sim.submit(Job("kept", range(13), [50], keeps_blocks=True))
    drain(sim)
    sim.submit(Job("waits", range(100, 109), [50]))
    due = sim.next_step_at()
    assert due is not None
    assert not sim.step(due).outputs
    assert sim.next_step_at() is None, "or whoever drives it would ask for ever, at one and the same time"
    assert sim.release("kept")
    assert [output.request_id for output in drain(sim)[0]] == ["waits"]
    sim.submit(Job("kept again", range(200, 213), [50], keeps_blocks=True))
    drain(sim)
    sim.submit(Job("gives up", range(300, 309), [50]))
    assert sim.next_step_at() is not None, "whoever comes is looked at"
    sim.step(sim.next_step_at() or 0.0)
    assert sim.cancel("gives up")
    assert sim.next_step_at() is None


def test_a_request_hits_the_blocks_of_one_that_is_still_being_computed() -> None:
    sim = engine()
    sim.submit(Job("a", range(9), [50]))
    sim.step(0.0)
    sim.submit(Job("b", range(9), [50]))
    cached = {output.request_id: output.cached_tokens for output in drain(sim)[0]}
    assert cached == {"a": 0, "b": 8}


def test_a_long_prompt_is_computed_in_chunks_and_announced_chunk_by_chunk() -> None:
    sim = engine(step_tokens=8)
    sim.submit(Job("a", range(20), [50]))
    outputs, batches = drain(sim)
    assert len(outputs) == 1
    assert [list(event.token_ids) for (event,) in batches if isinstance(event, BlockStored)] == [
        list(range(8)),
        list(range(8, 16)),
        list(range(16, 20)),
    ]


def test_a_request_that_runs_decodes_beside_the_chunks_of_another() -> None:
    sim = engine(step_tokens=8)
    sim.submit(Job("a", range(4), [50, 51, 52, 53]))
    sim.step(0.0)
    sim.submit(Job("b", range(100, 120), [60]))
    order = [output.request_id for output in drain(sim)[0]]
    assert order == ["a", "a", "a", "a", "b"]


def test_what_a_preempted_request_knew_is_computed_again_in_whole_chunks() -> None:
    sim = engine(block_count=13, step_tokens=9)
    sim.submit(Job("a", range(8), range(50, 80)))
    sim.submit(Job("b", range(100, 120), range(300, 312)))
    announced: list[int] = []  # tokens, by step, since a has ended and b begins again
    while (due := sim.next_step_at()) is not None:
        result = sim.step(due)
        announced.append(sum(len(event.token_ids) for event in result.events if isinstance(event, BlockStored)))
        if any(output.request_id == "a" and output.finished for output in result.outputs):
            announced.clear()
    assert sim.counters.preemptions == 1
    assert announced == [8, 8, 4, 0, 0]


def test_when_blocks_run_out_the_last_let_in_waits_again_and_still_answers_in_full() -> None:
    sim = engine(block_count=9)
    sim.submit(Job("a", range(12), range(50, 66)))
    sim.submit(Job("b", range(100, 112), range(70, 86)))
    outputs, _ = drain(sim)
    assert sim.counters.preemptions > 0
    assert [o.token for o in outputs if o.request_id == "a"] == list(range(50, 66))
    assert [o.token for o in outputs if o.request_id == "b"] == list(range(70, 86))


def test_a_cancelled_request_leaves_its_full_blocks_in_the_cache() -> None:
    sim = engine()
    sim.submit(Job("a", range(9), range(50, 90)))
    sim.step(0.0)
    assert sim.cancel("a")
    assert not sim.cancel("a")
    sim.submit(Job("b", range(9), [50]))
    outputs, batches = drain(sim)
    assert outputs[0].cached_tokens == 8
    assert len(batches) == 1
    assert sim.pool.used_blocks == 0


def test_a_prompt_whose_logprobs_are_asked_for_reads_nothing_from_the_cache() -> None:
    sim = engine()
    sim.submit(Job("a", range(9), [50]))
    drain(sim)
    sim.submit(Job("b", range(9), [50], reads_cache=False))
    assert drain(sim)[0][0].cached_tokens == 0


def test_a_full_report_announces_hits_again_without_new_copies() -> None:
    sim = engine()
    sim.submit(Job("a", range(9), [50]))
    _, first = drain(sim)
    copies = sim.pool.cached_copies
    sim.submit(Job("b", range(9), [50], reports_all_hits=True))
    _, second = drain(sim)
    assert second == first
    assert sim.pool.cached_copies == copies


def test_deep_context_makes_a_step_longer() -> None:
    timing = LLAMA3_70B_H100_TP2
    assert timing.step_seconds([(500, 100_000)], 0, 0) > 5 * timing.step_seconds([(500, 0)], 0, 0)
    assert timing.step_seconds([], 64, 64 * 2000) > timing.step_seconds([], 1, 2000)
    assert timing.faster(10).step_seconds([(500, 0)], 0, 0) * 10 == timing.step_seconds([(500, 0)], 0, 0)


requests = st.tuples(
    st.integers(0, 3),  # prompts share beginnings
    st.integers(1, 40),  # prompt tokens
    st.integers(0, 20),  # answer tokens
    st.integers(0, 4),  # steps before the next request
    st.booleans(),  # cancelled before the next request
)


@settings(max_examples=80, deadline=None)
@given(st.lists(requests, max_size=12), st.integers(4, 64))
def test_blocks_are_never_overcommitted_and_every_one_announced_is_accounted_for(
    script: list[tuple[int, int, int, int, bool]], step_tokens: int
) -> None:
    sim = engine(block_count=17, step_tokens=step_tokens, max_sequences=5)
    told: Counter[BlockName] = Counter()
    answered: Counter[str] = Counter()

    def step() -> None:
        due = sim.next_step_at()
        if due is None:
            return
        result = sim.step(due)
        account(told, result.events)
        answered.update(output.request_id for output in result.outputs if output.token is not None)
        assert 0 <= sim.pool.used_blocks <= sim.pool.usable_blocks

    expected: dict[str, int] = {}
    for number, (family, prompt, answer, steps, cancelled) in enumerate(script):
        name = f"request {number}"
        tokens = [family if i < 12 else family * 100 + number % 2 for i in range(prompt)]
        if not sim.fits(prompt + max(answer - 1, 0)):
            continue
        sim.submit(Job(name, tokens, range(1000, 1000 + answer)))
        for _ in range(steps):
            step()
        if not (cancelled and sim.cancel(name)):
            expected[name] = answer
    while sim.next_step_at() is not None:
        step()
    account(told, sim.pool.take_events())
    assert sim.pool.used_blocks == 0
    assert sum(told.values()) == sim.pool.cached_copies
    assert all(answered[name] == answer for name, answer in expected.items())


def account(told: Counter[BlockName], events: list[Event]) -> None:
    """Copies by name as a listener counts them; a removal must be of something stored, a parent be known."""
    for event in events:
        if isinstance(event, AllBlocksCleared):
            told.clear()
        elif isinstance(event, BlockRemoved):
            for name in event.block_hashes:
                assert told[name] > 0
                told[name] -= 1
        else:
            assert len(event.token_ids) == event.block_size * len(event.block_hashes)
            told.update(event.block_hashes)


arrivals = st.lists(
    st.tuples(
        st.floats(0.0, 0.5),  # seconds after the one before
        st.integers(0, 2),  # which beginning
        st.integers(1, 30),  # prompt tokens
        st.integers(1, 40),  # answer tokens
        st.one_of(st.none(), st.floats(0.0, 1.0)),  # when the client hangs up
    ),
    min_size=1,
    max_size=8,
)


def history(of: Engine, jobs: list[tuple[float, int, int, int, float | None]]) -> list[tuple[float, str, object]]:
    """What came out, and when: first tokens, ends with the number of tokens, and events. Steps themselves not."""
    orders: list[tuple[float, int, str]] = []
    now = 0.0
    for number, (wait, _, _, _, patience) in enumerate(jobs):
        now += wait
        orders.append((now, number, "submit"))
        if patience is not None:
            orders.append((now + patience, number, "cancel"))
    orders.sort()
    told: list[tuple[float, str, object]] = []
    counts: Counter[str] = Counter()
    while orders or of.next_step_at() is not None:
        due = of.next_step_at()
        if orders and (due is None or orders[0][0] <= due):
            at, number, what = orders.pop(0)
            _, beginning, prompt, answer, _ = jobs[number]
            if what == "cancel":
                of.cancel(str(number), at)
            elif of.fits(prompt + answer):
                of.submit(Job(str(number), [beginning] * prompt, range(answer)), at)
            if due is None and (begins := of.next_step_at()) is not None and begins <= at:
                of.step(at)
            continue
        assert due is not None
        result = of.step(due)
        for output in result.outputs:
            if not counts[output.request_id]:
                told.append((due, output.request_id, "first"))
            counts[output.request_id] += output.count
            if output.finished:
                told.append((due, output.request_id, counts[output.request_id]))
        told += [(due, "event", event) for event in result.events]
    return told


@settings(deadline=None)
@given(arrivals)
def test_strides_tell_the_same_story_as_single_steps(jobs: list[tuple[float, int, int, int, float | None]]) -> None:
    limits = EngineLimits(block_count=33, block_size_tokens=4, step_tokens=16, max_sequences=3)
    plain = history(Engine(limits, LLAMA3_70B_H100_TP2, b"root"), jobs)
    striding = history(Engine(limits, LLAMA3_70B_H100_TP2, b"root", longest_stride=1000), jobs)
    assert [(who, what) for _, who, what in plain] == [(who, what) for _, who, what in striding]
    for (one, _, _), (other, _, _) in zip(plain, striding, strict=True):
        assert abs(one - other) < 1e-6


def test_a_stride_takes_fewer_steps() -> None:
    limits = EngineLimits(block_count=33, block_size_tokens=512)
    steps = []
    for longest in (1, 1000):
        sim = Engine(limits, LLAMA3_70B_H100_TP2, b"root", longest_stride=longest)
        sim.submit(Job("a", range(9), range(300)), 0.0)
        taken = 0
        while (due := sim.next_step_at()) is not None:
            sim.step(due)
            taken += 1
        steps.append(taken)
    assert steps == [301, 3]
