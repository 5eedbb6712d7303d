"""Where replicas are found that come and go: what the configuration names, made ready to be followed."""

from __future__ import annotations

from collections.abc import Iterator

from router.clock import Clock
from router.config import Config
from router.discovery.file import FileSource
from router.discovery.kube_client import KubeClient
from router.discovery.kubernetes import KubernetesSource
from router.discovery.source import Source
from router.keeper import Say


def sources_of(config: Config, clock: Clock, say: Say) -> Iterator[Source]:
    """Where replicas are found that come and go. Raises ConfigError where there is no way to an API server."""
    if config.discovery.file is not None:
        yield FileSource(config.discovery.file, clock=clock, say=say)
    if config.discovery.kubernetes is not None:
        client = KubeClient(config.discovery.kubernetes)
        yield KubernetesSource(config.discovery.kubernetes, client, clock=clock, say=say)
