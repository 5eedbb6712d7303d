"""The event stream, judged: configured, bound, reachable, flowing, in order, and to be asked for again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from router.doctor.ask import Silence
from router.doctor.finding import Check, Finding, failed, passed, skipped, warned
from router.doctor.flags import flags_of
from router.doctor.hear import Greeting, Heard, Replayed
from router.doctor.layout import Published
from router.doctor.trial import gaps
from router.fleet.replica import EventAddress

FEW_BUFFER_STEPS = 1000  # some seconds of a busy engine: less than a router's restart takes
NAME_IT = "name it in the configuration: replicas[].events: tcp://HOST:5557 and replicas[].replay: tcp://HOST:5558"


def judge_events(
    engine: str, layout: tuple[Published, ...] | None, address: EventAddress | None, *, configured: bool
) -> Finding:
    """`layout`: every rank's publisher as the engine tells it, None where it does not. `address`: where we listen."""
    flags = flags_of(engine)
    if layout == ():
        found = "off: Homing can only guess what is cached there"
        return failed(Check.EVENTS, found, f"Start {flags.title} with {flags.events}.")
    if configured and address is not None:
        return passed(Check.EVENTS, f"{address.endpoint}, as configured")
    if layout is None and address is None:
        return failed(
            Check.EVENTS,
            "the engine does not tell where it publishes",
            f"Start {flags.title} with {flags.events}; if it publishes already, {NAME_IT}.",
        )
    if address is not None:
        return passed(Check.EVENTS, f"on, at {address.endpoint}")
    return passed(Check.EVENTS, "on")


def judge_publisher(engine: str, layout: tuple[Published, ...] | None) -> Finding:
    if layout is None:
        return skipped(Check.PUBLISHER, "the engine does not tell whether it binds")
    if not layout:
        return skipped(Check.PUBLISHER, "events are off")
    flags = flags_of(engine)
    for one in layout:
        endpoint = one.endpoint
        port = endpoint.rsplit(":", 1)[-1]
        if one.publisher not in (None, "zmq"):
            found = f"its publisher is {one.publisher!r}: nobody hears it"
            return failed(Check.PUBLISHER, found, f'Say "publisher":"zmq" in --kv-events-config: {flags.events}.')
        if not endpoint.startswith("tcp://"):
            found = f"publishes at {endpoint}, which is reached on its own machine only"
            return failed(Check.PUBLISHER, found, 'Say "endpoint":"tcp://*:5557" in --kv-events-config.')
        if one.binds is False:
            return failed(
                Check.PUBLISHER,
                f"connects to {endpoint} instead of binding it, and so does Homing: nobody meets",
                f'Say "endpoint":"tcp://*:{port}" in --kv-events-config: only an address with * is bound.',
            )
    if layout[0].binds is None:
        return passed(Check.PUBLISHER, f"{layout[0].endpoint}; whether it binds is not told, its port tells")
    return passed(Check.PUBLISHER, f"binds {layout[0].endpoint}")


def judge_ports(ports: Mapping[int, tuple[str, Silence | None]]) -> Finding:
    """By rank, the endpoint and what came of connecting to its TCP port (None: it took the connection)."""
    if not ports:
        return skipped(Check.EVENT_PORT, "no event address is known")
    shut = [(rank, endpoint, silence) for rank, (endpoint, silence) in ports.items() if silence is not None]
    if not shut:
        many = f", all {len(ports)} ranks" if len(ports) > 1 else ""
        return passed(Check.EVENT_PORT, f"{ports[min(ports)][0]} takes connections{many}")
    rank, endpoint, silence = shut[0]
    of_rank = f" of rank {rank}" if len(ports) > 1 else ""
    host = urlsplit(endpoint).hostname
    return failed(
        Check.EVENT_PORT,
        f"{endpoint}{of_rank}: {silence.ending.value}",
        f"Open that port of {host} to this machine (container port, firewall, network policy), or, where it is "
        f"mapped elsewhere, {NAME_IT}.",
    )


def judge_topic(address: EventAddress, heard: Sequence[Heard]) -> Finding:
    topics = sorted({message.topic for message in heard if message.topic is not None})
    if not topics:
        return skipped(Check.TOPIC, "nothing was heard")
    others = [topic for topic in topics if not topic.startswith(address.topic)]
    if others:
        return failed(
            Check.TOPIC,
            f"publishes under {others[0]!r}, and Homing subscribes to {address.topic!r}: it hears nothing",
            f"Set replicas[].topic to {others[0]!r}, or leave it out.",
        )
    return passed(Check.TOPIC, f"{topics[0]!r}" + (f" and {len(topics) - 1} more" if len(topics) > 1 else ""))


def judge_flow(
    engine: str,
    greeting: Greeting,
    heard: Sequence[Heard],
    unreadable: int,
    *,
    ours: bool,
    probed: bool,
    replayed_ours: bool,
) -> Finding:
    """`ours`: the probe's blocks were heard live; `replayed_ours`: the replay has them. `probed`: it was answered."""
    flags = flags_of(engine)
    if greeting is Greeting.NOBODY:
        return failed(
            Check.FLOW, "nobody answers at the event port any more", "Restart the engine, or look at its log."
        )
    if greeting is Greeting.STRANGER:
        return failed(
            Check.FLOW,
            "the port takes connections, but no ZMQ publisher speaks there",
            "Give the publisher's port in replicas[].events, not that of the replay (replicas[].replay) or of HTTP.",
        )
    broken = unreadable + sum(message.batch is None for message in heard)
    if broken and not ours:
        fault = next((message.fault for message in heard if message.fault), "frames of another shape")
        return failed(
            Check.FLOW,
            f"{broken} messages came that cannot be read: {fault}",
            f"Run a release of {flags.title} this Homing knows; see the version check.",
        )
    if not probed:
        if heard:
            return passed(Check.FLOW, f"{len(heard)} batches heard")
        return skipped(Check.FLOW, "connected; nothing is published while nothing is computed, and no probe was sent")
    if ours:
        return passed(Check.FLOW, "the probe's blocks were announced" + (f"; {broken} unreadable" if broken else ""))
    if replayed_ours:
        return failed(
            Check.FLOW,
            "the replay has the probe's event, but it did not come by itself: live events are dropped on the way",
            'Raise "hwm" in --kv-events-config, and take proxies off the way between publisher and Homing.',
        )
    if heard:
        return failed(
            Check.FLOW,
            f"{len(heard)} batches came, and none tells of the probe: these are the events of another engine",
            "Let replicas[].events name the publisher of this very replica; with several data-parallel ranks, give "
            "each entry its rank.",
        )
    return failed(
        Check.FLOW,
        "a prompt was computed and nothing was published",
        f"Start {flags.title} with {flags.events}, and without {flags.caching_off}.",
    )


def judge_numbering(heard: Sequence[Heard], buffer_steps: int | None) -> Finding:
    """Of live messages only. A gap is a batch lost between publisher and us."""
    if len(heard) < 2:
        return skipped(Check.NUMBERING, "fewer than two batches were heard")
    missing = gaps(heard)
    if missing:
        first, last = missing[0]
        count = sum(b - a + 1 for a, b in missing)
        return failed(
            Check.NUMBERING,
            f"{count} batches are missing ({first}{f' to {last}' if last > first else ''}"
            f"{', and more' if len(missing) > 1 else ''}): events are lost on the way",
            'Raise "hwm" in --kv-events-config, configure "replay_endpoint" there so that Homing can ask for them, '
            "and take proxies off the way.",
        )
    newest = max(message.sequence for message in heard)
    rolled = buffer_steps is not None and newest >= buffer_steps
    told = f"{len(heard)} batches without a gap, now at {newest}"
    return passed(Check.NUMBERING, told + ("; the replay buffer has rolled, as it does in time" if rolled else ""))


def judge_replay(
    engine: str,
    address: EventAddress,
    silence: Silence | None,
    empty: Replayed | None,
    kept: Replayed | None,
    newest: int | None,
    buffer_steps: int | None,
) -> Finding:
    """`empty`: a replay from a number not yet reached; `kept`: one from the first batch we heard, `newest` the last."""
    flags = flags_of(engine)
    if address.replay is None:
        return warned(
            Check.REPLAY,
            "none: a lost batch cannot be asked for, and a restarted Homing begins with nothing",
            f'Say "replay_endpoint":"tcp://*:5558" in --kv-events-config of {flags.title}'
            + ("." if not address.endpoint else ", or replicas[].replay where events are configured by hand."),
        )
    if silence is not None:
        return failed(
            Check.REPLAY,
            f"{address.replay}: {silence.ending.value}",
            "Open the replay port too (container port, firewall, network policy), or name it in replicas[].replay.",
        )
    if empty is None or (empty.answers == 0 and not (kept and kept.answers)):
        return failed(
            Check.REPLAY,
            f"{address.replay} takes connections and answers no replay request",
            "Give the replay's port (replay_endpoint) in replicas[].replay, not that of the live events; restart the "
            "engine if it is that already.",
        )
    if not empty.ended:
        return failed(
            Check.REPLAY,
            "its answers end in a framing nobody knows",
            f"Run a release of {flags.title} this Homing knows; see the version check.",
        )
    if kept is not None and newest is not None and newest not in {message.sequence for message in kept.heard}:
        return failed(
            Check.REPLAY,
            f"answers, but does not have batch {newest}, published a moment ago",
            'Raise "buffer_steps" in --kv-events-config (the default is 10000), and let replicas[].replay name the '
            "replay of the same engine.",
        )
    if buffer_steps is not None and buffer_steps < FEW_BUFFER_STEPS:
        return warned(
            Check.REPLAY,
            f"keeps {buffer_steps} batches only: a Homing away for longer begins with less",
            'Raise "buffer_steps" in --kv-events-config (the default is 10000).',
        )
    depth = f", keeps {buffer_steps} batches" if buffer_steps is not None else ""
    return passed(Check.REPLAY, f"{address.replay} answers{depth}")
