"""The API server's list and watch, through the official client: its kubeconfigs, tokens and TLS, and raw bytes back.

The client blocks, so this is used from a thread. It is imported only when pods are to be found: it is an optional
package, and costs most of a second. Its own `Watch` is left alone: it decodes every field of every pod, and hides where
one watch ends and the next begins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import msgspec

from router.config import KubernetesSettings
from router.discovery.kube_objects import Status
from router.errors import ConfigError

PAGE = 500  # objects
CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 30.0  # for one page
# A watch is ended by the server after so long; a bookmark shortly before lets the next go on. So a connection that died
# without a word is noticed after this and the grace.
WATCH_SECONDS = 60
GRACE_SECONDS = 10.0


class Refused(Exception):
    """The API server answered with something else than what was asked for."""

    def __init__(self, status: Status) -> None:
        super().__init__(f"{status.code} {status.reason}: {status.message}".strip())
        self.code = status.code


class Unreachable(Exception):
    """No answer, or one that broke off."""


class KubeClient:
    """Lists and watches one kind of object in one namespace. Used by one thread; `interrupt` by any."""

    def __init__(self, settings: KubernetesSettings, *, watch_seconds: int = WATCH_SECONDS) -> None:
        """Reads the kubeconfig or the service account; no connection is made. Raises ConfigError."""
        try:
            from kubernetes import client, config  # noqa: PLC0415 # optional
            from kubernetes.client.exceptions import ApiException  # noqa: PLC0415
            from kubernetes.config.config_exception import ConfigException  # noqa: PLC0415
            from urllib3.exceptions import HTTPError  # noqa: PLC0415
        except ImportError as fault:
            raise ConfigError(
                [f"discovery.kubernetes: the Kubernetes client is missing ({fault}). pip install 'homing[kubernetes]'"]
            ) from None
        connection = client.Configuration()
        try:
            self.namespace, self.where = _connect(settings, config, connection, ConfigException)
        except (ConfigException, OSError) as fault:
            raise ConfigError(
                [
                    f"discovery.kubernetes: no way to an API server: {' '.join(str(fault).split())}. Run in a pod with "
                    "a service account, or name a kubeconfig and a context of it."
                ]
            ) from None
        connection.retries = False  # told of at once and asked again by the caller, who knows when
        api = client.ApiClient(connection)
        self._list: Any  # the client's method for one kind of object
        if settings.service is None:
            self.what, self._list = "pods", client.CoreV1Api(api).list_namespaced_pod
            self._selector = settings.selector
        else:
            self.what, self._list = "endpointslices", client.DiscoveryV1Api(api).list_namespaced_endpoint_slice
            self._selector = f"kubernetes.io/service-name={settings.service}"
        self._faults: tuple[type[Exception], ...] = (HTTPError, OSError)
        self._refusal: type[Exception] = ApiException
        self._watch_seconds = watch_seconds
        self._response: Any = None  # a urllib3.HTTPResponse while a watch is open

    def page(self, token: str) -> bytes:
        """One page of the list; `token` from the page before. Raises Refused or Unreachable."""
        answer = self._ask(ANSWER_SECONDS, limit=PAGE, **({"_continue": token} if token else {}))
        try:
            body: bytes = answer.data
        except self._faults as fault:
            raise Unreachable(_told(fault)) from fault
        return body

    @contextlib.contextmanager
    def watch(self, version: str) -> Iterator[Iterator[bytes]]:
        """The lines of a watch from that version, until the server ends it. Raises Refused or Unreachable."""
        self._response = self._ask(
            self._watch_seconds + GRACE_SECONDS,
            watch=True,
            resource_version=version,
            allow_watch_bookmarks=True,
            timeout_seconds=self._watch_seconds,
        )
        try:
            yield self._lines()
        finally:
            response, self._response = self._response, None
            response.close()
            response.release_conn()

    def interrupt(self) -> None:
        """End an open watch from another thread."""
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):  # it ended by itself meanwhile; urllib3 says that in several ways
                response.shutdown()

    def _lines(self) -> Iterator[bytes]:
        rest = b""
        try:
            for chunk in self._response.stream(65_536, decode_content=True):
                *lines, rest = (rest + chunk).split(b"\n")
                yield from (line for line in lines if line.strip())
        except self._faults as fault:
            raise Unreachable(_told(fault)) from fault

    def _ask(self, seconds: float, **query: Any) -> Any:  # Any: a urllib3.HTTPResponse, which older clients do not tell
        try:
            answer = self._list(
                self.namespace,
                label_selector=self._selector,
                _preload_content=False,
                _request_timeout=(CONNECT_SECONDS, seconds),
                **query,
            )
            if answer.status == 200:
                return answer
            code, body = answer.status, answer.data
        except self._refusal as fault:  # older clients raise it, newer ones answer
            code, body = getattr(fault, "status", 0) or 0, getattr(fault, "body", b"") or b""
        except self._faults as fault:
            raise Unreachable(_told(fault)) from fault
        try:
            status = msgspec.json.decode(body, type=Status)
        except msgspec.MsgspecError:
            status = Status(code, message=str(body)[:200])
        raise Refused(status if status.code else Status(code, status.reason, status.message))


def _connect(
    settings: KubernetesSettings,
    config: Any,  # the client's module
    connection: Any,  # the client's Configuration
    nowhere: type[Exception],
) -> tuple[str, str]:
    """The namespace, and where the way to the server was found."""
    named = settings.kubeconfig or settings.context
    if not named:
        try:
            config.load_incluster_config(client_configuration=connection)
        except nowhere:
            pass
        else:
            return settings.namespace or _own_namespace(config), "the pod's service account"
    path = None if settings.kubeconfig is None else str(settings.kubeconfig)
    config.load_kube_config(path, settings.context, client_configuration=connection)
    contexts, current = config.list_kube_config_contexts(path)
    one = next((context for context in contexts if context["name"] == settings.context), current)
    namespace = settings.namespace or one["context"].get("namespace") or "default"
    return namespace, f"context {one['name']} of {path or 'the kubeconfig'}"


def _own_namespace(config: Any) -> str:
    folder = config.incluster_config.SERVICE_TOKEN_FILENAME.rpartition("/")[0]
    with open(f"{folder}/namespace") as file:
        return file.read().strip()


def _told(fault: Exception) -> str:
    return " ".join(f"{type(fault).__name__}: {fault}".split())
