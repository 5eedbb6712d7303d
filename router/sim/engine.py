"""One simulated engine: continuous batching over a paged prefix cache. Pure and passive.

The owner calls `submit`, then `step(now)` whenever `next_step_at()` has come. A step is scheduled when it starts and
its tokens and news come out when it ends, so one call both ends the step that was running and starts the next:

* requests that run come first, in the order they began, each with one token to decode or a chunk of its prompt; then
  waiting ones are let in, in order, while sequences, the step's token budget and blocks allow;
* a prompt longer than the budget is computed in chunks over several steps;
* when no block is left for a request that runs, the one let in last gives up its blocks and waits again, in front, to
  be computed anew (it may hit its own blocks, if they survive);
* the last sampled token of a request has no KV: it is never computed.

*Riders.* A request that decodes and has room for its next tokens takes one token in each step, like all the others, so
nothing is done for it until its answer ends or a block is full (riders.py): a step costs for what happens in it, not
for all that run.

*Strides.* While every scheduled request decodes, steps differ in nothing but their length, so an engine that is told to
may take many as one: until the first request ends or needs a block, or until `submit` or `cancel` cuts the stride
short at the end of the step that is running then. Such an engine tells a request's first token and its end, and not
the tokens between; what it tells, it tells when single steps would.

What a request answers is given with it. The engine decides when each token comes, not what it says.
"""

from __future__ import annotations

from array import array
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count

from router.sim.cache import BlockPool, Chain, Namespace
from router.sim.riders import Rider, Riders, Stride
from router.sim.timing import Timing
from router.sim.wire import Event


@dataclass(frozen=True, slots=True)
class Job:
    """One prompt to compute and the tokens to answer with; no answer means prefill only (embeddings)."""

    request_id: str
    prompt: Sequence[int]
    answer: Sequence[int]
    namespace: Namespace = field(default_factory=Namespace)
    reads_cache: bool = True  # prompt_logprobs computes the whole prompt
    reports_all_hits: bool = False  # vllm_xargs.kv_cache_report_mode = "full"
    imported_tokens: int = 0  # leading tokens whose KV came from another replica before it was submitted
    reported_cached_tokens: int | None = None  # what to report as cached in its stead
    keeps_blocks: bool = False  # its blocks stay in use after its end, until `release`


@dataclass(frozen=True, slots=True)
class Output:
    """What one step did for one request: at most one token. `token` is None where a prefill without answer ended."""

    request_id: str
    token: int | None
    finished: bool
    cached_tokens: int  # prompt tokens found in the cache when the request was first let in
    count: int = 1  # tokens since the last output, of which `token` is the last: above 1 where strides are taken


@dataclass(frozen=True, slots=True)
class StepResult:
    outputs: list[Output]
    events: list[Event]


@dataclass(frozen=True, slots=True)
class EngineLimits:
    block_count: int = 4096  # one of them is the null block
    block_size_tokens: int = 16
    max_sequences: int = 256
    step_tokens: int = 8192  # budget of one step, prompt and decode together
    max_model_tokens: int = 131_072


@dataclass(slots=True, eq=False, kw_only=True)
class _Running(Rider):
    """A request in the engine. Changed by the engine alone."""

    job: Job
    chain: Chain  # learns tokens of the answer when it needs them
    answer_tokens: int
    told: int = 0  # tokens of the answer in outputs
    cached_tokens: int | None = None  # None: never let in
    scheduled: int = 0  # tokens of the running step, unless it rides
    active: bool = False  # let in, not waiting

    def catch_up(self) -> None:
        """Let the chain know all tokens there are."""
        missing = self.known - self.chain.token_count
        if missing:
            self.chain.tokens += array("I", self.job.answer[self.answered - missing : self.answered]).tobytes()


@dataclass(slots=True)
class Counters:
    """Totals since the start of the process, in tokens or requests. Changed by the engine alone."""

    queried_tokens: int = 0
    hit_tokens: int = 0
    prompt_tokens: int = 0
    generated_tokens: int = 0
    preemptions: int = 0
    finished: int = 0
    aborted: int = 0


class Engine:
    """`root` seeds the names of blocks; draw it anew for each process.

    `longest_stride` above 1 lets it take strides: then `submit` and `cancel` must be told the time.
    """

    def __init__(
        self,
        limits: EngineLimits,
        timing: Timing,
        root: bytes,
        *,
        names_as_bytes: bool = False,
        longest_stride: int = 1,
    ) -> None:
        self.limits = limits
        self.timing = timing  # may be replaced between steps: a straggler
        self.counters = Counters()
        self.pool = BlockPool(limits.block_count, limits.block_size_tokens, root, names_as_bytes=names_as_bytes)
        self._waiting: deque[_Running] = deque()
        self._running: list[_Running] = []
        self._requests: dict[str, _Running] = {}
        self._kept: dict[str, Chain] = {}
        self._orders = count()
        self._climbing: list[_Running] = []  # let in, and still computing what they knew then
        self._roomless: list[_Running] = []  # decoding, and about to need a block
        self._riders = Riders[_Running]()
        # Each that runs gets a token of every step: real engines refuse a budget below their sequences.
        self._most_running = min(limits.max_sequences, limits.step_tokens)
        self._longest_stride = longest_stride
        self._stride: Stride | None = None  # None: a single step is running, or none
        self._step_ends: float | None = None  # None: no step is running
        self._free_at: float = 0.0
        self._stuck = False  # whoever waits has no room, and nobody runs who would make any

    @property
    def running(self) -> int:
        return len(self._running)

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    @property
    def usage_ratio(self) -> float:
        return self.pool.used_blocks / self.pool.usable_blocks

    def fits(self, token_count: int) -> bool:
        """Whether a request of this many tokens, answer included, can ever run."""
        return -(-token_count // self.limits.block_size_tokens) <= self.pool.usable_blocks

    def submit(self, job: Job, now: float = 0.0) -> None:
        """Queue a request. Raises ValueError for an empty prompt, an id in use, or more tokens than the pool holds."""
        if not job.prompt or job.request_id in self._requests:
            raise ValueError(f"request {job.request_id} has an empty prompt or an id in use")
        if not self.fits(len(job.prompt) + max(len(job.answer) - 1, 0)):
            raise ValueError(f"request {job.request_id} needs more blocks than the engine has")
        prompt = job.prompt if isinstance(job.prompt, array) else array("I", job.prompt)
        chain = Chain(bytearray(prompt), job.namespace)
        request = _Running(job=job, chain=chain, answer_tokens=len(job.answer), known=len(prompt))
        self._requests[job.request_id] = request
        self._waiting.append(request)
        self._cut_stride(now)

    def cancel(self, request_id: str, now: float = 0.0) -> bool:
        """Drop a request; what it filled stays cached. False if it is not here any more."""
        request = self._requests.pop(request_id, None)
        if request is None:
            return False
        self._cut_stride(now)
        self._leave(request)
        self.counters.aborted += 1
        return True

    def kept_blocks(self, request_id: str) -> tuple[int, ...]:
        """The blocks a finished request has kept; none when it keeps none."""
        chain = self._kept.get(request_id)
        return () if chain is None else tuple(chain.blocks)

    def release(self, request_id: str) -> bool:
        """Give back what a finished request has kept. Again: False."""
        chain = self._kept.pop(request_id, None)
        if chain is None:
            return False
        self.pool.free(chain)
        self._stuck = False
        return True

    def lacking(self, prompt: Sequence[int], namespace: Namespace) -> int:
        """How many of these tokens its cache has not."""
        chain = Chain(bytearray(array("I", prompt)), namespace)
        return len(prompt) - len(self.pool.hit(chain)) * self.limits.block_size_tokens

    def reset_cache(self) -> bool:
        """Forget the cache; False while blocks are in use. The news of it leaves with the next batch."""
        return self.pool.reset()

    def next_step_at(self) -> float | None:
        """When `step` has something to do; a time that has passed means now.

        None means not before a `submit`, nor before a `release` or `cancel` where what is kept leaves no room.
        """
        if self._step_ends is not None:
            return self._step_ends
        return self._free_at if self._requests and not self._stuck else None

    def step(self, now: float) -> StepResult:
        """End the running step if its time has come, then start the next. Call at or after `next_step_at()`."""
        if self._step_ends is not None and now < self._step_ends:
            return StepResult([], [])
        outputs: list[Output] = []
        events: list[Event] = []
        if self._step_ends is not None:
            outputs, events = self._finish_step(), self.pool.take_events()
            self._free_at, self._step_ends = now, None
        self._start_step(now)
        return StepResult(outputs, events)

    def _start_step(self, now: float) -> None:
        preemptions = self.counters.preemptions
        roomless, self._roomless = self._roomless, []
        for request in roomless:
            if request.active and self._reserve(request, 1):  # else it was preempted, perhaps for one before it
                self._ride(request)
        riders = self._riders
        budget = self.limits.step_tokens - riders.count
        chunks: list[tuple[int, int]] = []
        for request in list(self._climbing):
            tokens = min(request.known - request.computed, budget)
            if tokens and request.active and self._reserve(request, tokens):
                budget -= tokens
                chunks.append((tokens, request.computed))
        crowded = self.counters.preemptions > preemptions
        while self._waiting and budget and not crowded and len(self._running) < self._most_running:
            tokens = self._admit(self._waiting[0], budget)
            if not tokens:
                break
            request = self._waiting.popleft()
            self._running.append(request)
            self._climbing.append(request)
            request.active, request.order = True, next(self._orders)
            budget -= tokens
            chunks.append((tokens, request.computed))
        if not riders.count and not chunks:
            self._stuck = not crowded  # else the next step finds the room of who was put back
            return
        # In a crowded step nobody was let in: the next one tries again. One with news lets it out at its end.
        alone = chunks or crowded or self.pool.has_news or self._longest_stride == 1
        self._stride = None if alone else self._stride_of(now)
        if self._stride is not None:
            self._step_ends = now + self._stride.seconds(self._stride.steps)
        else:
            seconds = self.timing.step_seconds(chunks, riders.count, riders.context_tokens)
            self._step_ends = now + self.timing.pace(1) * seconds

    def _reserve(self, request: _Running, tokens: int) -> bool:
        """Room for the next tokens of a running request, at the price of those let in after it."""
        request.catch_up()
        while not self.pool.allocate(request.chain, request.computed + tokens):
            victim = self._running[-1]
            self._preempt(victim)
            if victim is request:
                return False
        request.scheduled = tokens
        return True

    def _ride(self, request: _Running) -> None:
        """Until its answer ends or its room does; a block is announced with the step that fills it."""
        chain, size = request.chain, self.limits.block_size_tokens
        room_until = min(len(chain.blocks) * size, (chain.named + 1) * size - 1)
        left = request.answer_tokens - request.answered
        request.scheduled = 0
        self._riders.mount(request, min(left, max(1, room_until - request.computed)))

    def _stride_of(self, now: float) -> Stride | None:
        """As many equal steps as can be foretold; None if the next step is not one of them."""
        riders = self._riders
        steps = min(self._longest_stride, riders.free_steps())
        if steps < 2:
            return None
        pace = self.timing.pace(steps)
        growing = pace * self.timing.per_decode_context_token_seconds * riders.count
        return Stride(now, steps, pace * self.timing.step_seconds((), riders.count, riders.context_tokens), growing)

    def _cut_stride(self, now: float) -> None:
        self._stuck = False
        stride = self._stride
        if stride is not None:
            steps = stride.steps_begun_by(now)
            self._stride = Stride(stride.began, steps, stride.first_seconds, stride.longer_seconds)
            self._step_ends = stride.began + stride.seconds(steps)

    def _preempt(self, victim: _Running) -> None:
        self._withdraw(victim)
        victim.catch_up()
        victim.computed = victim.scheduled = 0
        self._waiting.appendleft(victim)
        self.counters.preemptions += 1

    def _admit(self, request: _Running, budget: int) -> int:
        """Let a waiting request in; the tokens scheduled for it, 0 if there is no room."""
        job, size = request.job, self.limits.block_size_tokens
        hits = self.pool.hit(request.chain, report_all=job.reports_all_hits) if job.reads_cache else []
        cached = len(hits) * size
        # What was imported is there once: a request that lost its blocks computes like any other.
        imported = min(job.imported_tokens, len(job.prompt) - 1) if request.cached_tokens is None else 0
        there = max(cached, imported)
        tokens = min(request.known - there, budget)
        if not self.pool.allocate(request.chain, there + tokens, hits):
            return 0
        if request.cached_tokens is None:
            request.cached_tokens = cached
            self.counters.queried_tokens += len(job.prompt) if job.reads_cache else 0
            self.counters.hit_tokens += cached
            self.counters.prompt_tokens += len(job.prompt)
        request.computed, request.scheduled = there, tokens
        return tokens

    def _finish_step(self) -> list[Output]:
        steps = self._stride.steps if self._stride is not None else 1
        self._stride = None
        tells_all = self._longest_stride == 1
        riding = [request for request in self._running if request.due is not None] if tells_all else []
        self.counters.generated_tokens += self._riders.count * steps
        telling: list[_Running] = []
        for request in self._riders.advance(steps):
            (telling if request.answered >= request.answer_tokens else self._roomless).append(request)
        if tells_all:
            for request in riding:
                if request.due is not None:
                    request.count(self._riders.tick)
            telling = riding
        climbing, self._climbing = self._climbing, []
        for request in climbing:
            request.computed += request.scheduled
            request.scheduled = 0
            if request.computed < request.known:
                # More chunks to come; one token that is left after a preemption is decoding.
                last = request.answered and request.known - request.computed == 1
                (self._roomless if last else self._climbing).append(request)
                continue
            if request.answer_tokens:
                request.answered += 1
                request.known += 1
                self.counters.generated_tokens += 1
            if request.answered < request.answer_tokens:
                self._roomless.append(request)
            if request.answered >= request.answer_tokens or not request.told or tells_all:
                telling.append(request)
        return [self._tell(request) for request in telling]

    def _tell(self, request: _Running) -> Output:
        job, count, answered = request.job, request.answered - request.told, request.answered
        finished, request.told = answered >= request.answer_tokens, answered
        if finished:
            del self._requests[job.request_id]
            if job.keeps_blocks:
                self._stop(request)
                self._kept[job.request_id] = request.chain
            else:
                self._leave(request)
            self.counters.finished += 1
        token = job.answer[answered - 1] if answered else None
        cached = request.cached_tokens or 0
        if job.reported_cached_tokens is not None:
            cached = job.reported_cached_tokens
        return Output(job.request_id, token, finished, cached, count)

    def _leave(self, request: _Running) -> None:
        if request.active:
            self._withdraw(request)
        else:
            self._waiting.remove(request)

    def _withdraw(self, request: _Running) -> None:
        """It runs no longer; what it filled stays cached."""
        self._stop(request)
        self.pool.free(request.chain)

    def _stop(self, request: _Running) -> None:
        """It runs no longer, and its blocks are still in use."""
        self._riders.dismount(request)
        self._running.remove(request)
        if request in self._climbing:
            self._climbing.remove(request)
        request.active = False
