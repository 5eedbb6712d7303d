from __future__ import annotations

from router.discovery.ranks import replicas
from router.fleet.replica import EventAddress, Replica, ReplicaId

SERVER = Replica(ReplicaId("gpu-1:8000"), "http://gpu-1:8000", labels={"zone": "a"})


def test_a_server_with_one_engine_is_one_replica_under_its_own_name() -> None:
    assert replicas(SERVER, 1) == (SERVER,)


def test_each_rank_is_a_replica_named_after_server_and_rank() -> None:
    found = replicas(SERVER, 3)
    assert [(one.id, one.rank) for one in found] == [("gpu-1:8000#0", 0), ("gpu-1:8000#1", 1), ("gpu-1:8000#2", 2)]
    assert {one.url for one in found} == {SERVER.url}
    assert all(one.labels == {"zone": "a"} for one in found)


def test_rank_r_publishes_and_replays_r_ports_above_what_is_configured() -> None:
    server = Replica(
        ReplicaId("a"), "http://a:1", events=EventAddress("tcp://[fd00::7]:5557", "tcp://[fd00::7]:6557", "kv")
    )
    assert [one.events for one in replicas(server, 2)] == [
        EventAddress("tcp://[fd00::7]:5557", "tcp://[fd00::7]:6557", "kv"),
        EventAddress("tcp://[fd00::7]:5558", "tcp://[fd00::7]:6558", "kv"),
    ]
    deaf = Replica(ReplicaId("a"), "http://a:1", events=EventAddress("tcp://a:5557"))
    assert replicas(deaf, 2)[1].events == EventAddress("tcp://a:5558")
