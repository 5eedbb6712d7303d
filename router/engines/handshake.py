"""What the two legs of a split request say to their engines: the part of a dialect that moves KV from one to another.

A request is split over a *donor*, which computes the prompt (the prefill leg), and a *taker*, which gets its KV and
answers (the decode leg). Each way of moving KV has a handshake of its own, a pure function of the request and of where
the donor is. Who sends what when, and what follows a failure, is `gateway/handoff.py`'s, which knows legs only.

**Opaque and once.** What a donor says of a transfer is passed on byte for byte, to one taker, once: a wrong block id
gives a 200 with wrong text and no error anywhere.

**Cancellation, by handshake.** Closing the HTTP connection of a leg ends its request everywhere. What is left then:

- NIXL, prefill leg closed before it answered: nothing. Prefill answered and the decode leg closed or never sent: the
  donor keeps the blocks for its lease (30 s) and then frees them; no call frees them sooner.
- Mooncake: the same, with the donor's own time-out; a taker whose donor is gone waits, so its leg is closed too.
- SGLang: a side whose other side is gone waits for its own time-out, so both legs are always closed together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from router.errors import UpstreamError
from router.prompt.request import Endpoint, InferenceRequest
from router.prompt.splices import Pieces


@dataclass(frozen=True, slots=True)
class Donor:
    """The replica of the prefill leg as its taker is told of it."""

    host: str  # as takers reach it; an IPv6 address without brackets
    bootstrap_port: int | None = None  # None: the handshake's own default
    rank: int | None = None  # data-parallel rank behind the address; None: it has one engine
    bootstrap: bytes | None = None  # what its bootstrap server answered, where the handshake asks it


@dataclass(frozen=True, slots=True)
class Legs:
    """The two bodies. `decode` None: it is written from the donor's answer (`hand_over`)."""

    prefill: Pieces
    decode: Pieces | None


class HandshakeFault(UpstreamError):
    """A donor's side of a handshake cannot be read. The request can still go whole."""


class Handshake(Protocol):
    """One way of moving KV between two engines. No sockets here."""

    @property
    def name(self) -> str: ...

    @property
    def at_once(self) -> bool:
        """Whether both legs leave together; else the decode leg follows the donor's answer, strictly."""

    @property
    def answers_whole(self) -> bool:
        """Whether an engine of such a pool can also answer a request alone."""

    @property
    def counts_whole_prompt(self) -> bool:
        """Whether the taker reports the whole prompt as cached, so that the donor's figure is the true one."""

    @property
    def watch_path(self) -> str | None:
        """What to ask the donor for with GET while its taker fetches, to learn whether it still lives."""

    def takes(self, request: InferenceRequest) -> bool:
        """Whether this request can be split at all. One whose client plays the handshake itself cannot."""

    def bootstrap_url(self, donor: Donor) -> str | None:
        """Where the donor's bootstrap server is to be asked, for each request; None: nothing needs asking."""

    def legs(self, request: InferenceRequest, body: Pieces, donor: Donor, transfer: int) -> Legs:
        """The bodies. `body`: what a whole request would send. `transfer`: below 2^63, unique among those under way.

        Raises HandshakeFault for a bootstrap server's answer that cannot be read.
        """

    def hand_over(self, request: InferenceRequest, body: Pieces, answer: bytes) -> Pieces | None:
        """The decode leg's body, from the donor's whole answer; None: it gave nothing to hand over.

        Raises HandshakeFault for an answer that is not what it should be.
        """

    def handed_over(self, answers: Sequence[bytes]) -> bool:
        """Whether a donor's answers show that it has KV to give, as far as they can."""


def splittable(request: InferenceRequest) -> bool:
    """What holds for every handshake: one prompt, one choice, text to generate, each field once."""
    return (
        request.endpoint is not Endpoint.EMBEDDINGS
        and request.prompts == 1
        and request.choices == 1
        and not request.prompt_logprobs  # of tokens the taker never computes
        and not request.members.repeated
    )


def shown_host(host: str) -> str:
    """As it stands in a URL."""
    return f"[{host}]" if ":" in host else host
