"""The process of a replica: log, HTTP server, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING, Any, cast

from aiohttp import web

from raftflow.api.admission import descriptors
from raftflow.api.admission.descriptors import DescriptorShares
from raftflow.api.admission.gated_connection import AdmissionControl
from raftflow.api.admission.listener import ApiListener
from raftflow.api.admission.load_shedder import LoadShedder
from raftflow.api.app import Api
from raftflow.api.connection import ApiConnection
from raftflow.api.diagnostics.host_facts import HostFacts
from raftflow.api.fast_path import FastPath
from raftflow.api.figures.request_counts import RequestCounts
from raftflow.api.forwarding.bundle_peers import ApiBundlePeers
from raftflow.api.forwarding.forwarder import CONNECTIONS_MAX, Forwarder
from raftflow.api.forwarding.proof import ForwardingProof
from raftflow.api.http.access_control import AccessControl
from raftflow.api.http.hosts import Hosts
from raftflow.api.http.identity import Identities
from raftflow.api.http.parse_errors import LINE_BYTES_MAX
from raftflow.api.http.tls import forward_context, revoked_certificates, tls_context
from raftflow.certificates import CertificateReloader
from raftflow.coordinator.build import build_replica
from raftflow.coordinator.clock import SystemClock
from raftflow.coordinator.config.loading import tokens_in
from raftflow.coordinator.config.values import ConfigError
from raftflow.coordinator.failures import (
    ReplicaDiskError,
    ReplicaFailedError,
    ReplicaRefusedError,
    ReplicaRemovedError,
)
from raftflow.coordinator.replica import Replica
from raftflow.private_files import close_to_others
from raftflow.recovery.bundle_files import digests_of
from raftflow.recovery.service import SnapshotService
from raftflow.replication.elections.priority import ask_for_priority
from raftflow.replication.real_files import RealFileSystem
from raftflow.service_manager import ServiceManager

if TYPE_CHECKING:
    from collections.abc import Callable

    from raftflow.coordinator.config.replica_config import CoordinatorConfig
    from raftflow.replication.histogram import Histogram

_log = logging.getLogger(__name__)

EXIT_OK = 0
"""Stopped by a signal, or removed from the cluster. A supervisor does not have to restart it."""
EXIT_FAILED = 1
"""An error while it ran, or an error of the disk, also at the start."""
EXIT_REFUSED = 2
"""The configuration or the data directory cannot be used."""

KEEPALIVE_S = 75.0
LOG_PERIOD_S = 10.0
"""Shortest time between two log lines about requests that are not HTTP."""

TOKEN_CHECK_S = 0.25
"""How often it is checked whose tokens have ended."""
CERTIFICATE_LOOK_S = 0.5
"""How often it is looked whether files of certificates have changed, the list of revoked ones among them."""
_REQUESTS_SHARE = 0.6
"""The part of a graceful stop that requests may take."""

SWITCH_S = 0.001
"""How long another thread, such as one that reads a snapshot, may hold the interpreter while the loop waits."""
_GC_THRESHOLDS = (5_000, 3, 10_000)
"""The collector does not see the state's records, and most other objects are freed without it. A collection takes
about a millisecond for a thousand objects. One of the middle generation covers what four young ones left: requests
leave cycles behind. So the first two numbers set pauses of about 5 and 20 ms. The third makes full collections rare.
"""


def _http_log() -> logging.Logger:
    log = logging.getLogger("raftflow.api.http")
    log.filters = [_RateLimit()]
    return log


class _RateLimit(logging.Filter):
    """Lets one line pass in each `LOG_PERIOD_S`, without the traceback: any client can cause these lines."""

    def __init__(self) -> None:
        super().__init__()
        self._next_s = 0.0
        self._dropped = 0

    def filter(self, record: logging.LogRecord) -> bool:
        reason = record.exc_info[1] if record.exc_info else None
        if isinstance(reason, RuntimeError) and "the handler is closed" in str(reason):
            return False  # uvloop's error for an answer to a closed connection, which is normal at the end
        now_s = time.monotonic()
        if now_s < self._next_s:
            self._dropped += 1
            return False
        self._next_s = now_s + LOG_PERIOD_S
        record.msg = f"{record.getMessage()}: {str(reason)[:200]!r} ({self._dropped} more since the last such line)"
        record.args, record.exc_info, self._dropped = (), None, 0
        return True


class HttpServer:
    """The listening side of one replica."""

    def __init__(
        self,
        replica: Replica,
        shares: DescriptorShares | None = None,
        syncs: Histogram | None = None,
        certificates: CertificateReloader | None = None,
    ) -> None:
        """Make the server.

        Args:
            replica: what it serves.
            shares: descriptors that it may use; as many as the configuration asks for by default.
            syncs: how long syncs of the disk take.
            certificates: looks after those of the API.
        """
        config = self._config = replica.config
        shares = shares or DescriptorShares(config.limits.connections, CONNECTIONS_MAX)
        shedder, figures = LoadShedder(), RequestCounts(syncs)
        proof = ForwardingProof(lambda: replica.secrets)
        revoked = revoked_certificates(config)
        self._identities = Identities(config.tokens, replica.machine, replica.clock.now_ms, revoked)
        hosts = Hosts(config, lambda: self.port, replica.cluster.peer_urls)
        access = AccessControl(self._identities, hosts, proof.is_of_a_replica)
        self.fast_path = FastPath(replica, shedder, access, figures)
        self.admission = AdmissionControl(shedder, figures, self._connection, shares.connections)
        self.listener = ApiListener(self.admission, tls_context(config))
        self.forwarder = forwarder = Forwarder(replica.news, proof, forward_context(config), shares.forward)
        if certificates is not None:
            self._look_after(certificates)
            if revoked is not None and revoked.paths:
                certificates.add(revoked.paths, revoked.load)
        replica.bundles.peers = ApiBundlePeers(forwarder.request, proof, self._identities.first_token, config.name)
        self._token_timer: asyncio.TimerHandle | None = None
        self._host_facts = HostFacts(replica, figures.syncs)
        api = Api(replica, forwarder, self.admission, access, proof, self._host_facts)
        self._connection_options: dict[str, Any] = {
            "access_log": None,
            "logger": _http_log(),
            "keepalive_timeout": KEEPALIVE_S,
            "max_line_size": LINE_BYTES_MAX,
            "max_field_size": LINE_BYTES_MAX,
            "auto_decompress": False,
        }
        self._runner = web.AppRunner(
            api.application(),
            handle_signals=False,
            shutdown_timeout=config.timing.shutdown_ms / 1000,
            **self._connection_options,
        )

    def _look_after(self, certificates: CertificateReloader) -> None:
        """Have the certificates of the API, and the token of the configuration, read again when they change."""
        config, tls = self._config, self._config.tls

        def load() -> None:
            self.listener.tls = tls_context(config)

        def load_forward() -> None:
            self.forwarder.tls = forward_context(config)

        if tls.api_cert is not None and tls.api_key is not None:
            authorities = () if tls.api_client_ca is None else (tls.api_client_ca,)
            certificates.add((tls.api_cert, tls.api_key, *authorities), load)
        if (file := config.private_file("replica.token_file")) is not None:
            certificates.add((file,), lambda: self._identities.use_tokens(tokens_in(file)))
        if tls.api_ca is not None:
            certificates.add((tls.api_ca,), load_forward)

    @property
    def port(self) -> int:
        """The bound port."""
        return self.listener.port

    async def start(self) -> None:
        """Bind and serve. Raises `ReplicaFailedError` if the address cannot be bound."""
        await self._runner.setup()
        self._host_facts.watch.start()
        bind = self._config.bind
        try:
            self.listener.start(bind)
        except OSError as error:
            raise ReplicaFailedError(f"cannot listen at {bind.host}:{bind.port}: {error}") from error
        self._end_invalid()

    def _end_invalid(self) -> None:
        """End, again and again, the connections of those whose tokens were revoked or have expired."""
        if self._identities.have_changed():
            ended = self.admission.end_invalid(self._identities.is_valid)
            if ended:
                _log.info("closed %d connections whose tokens or certificates are not valid any more", ended)
        self._token_timer = asyncio.get_running_loop().call_later(TOKEN_CHECK_S, self._end_invalid)

    def _connection(self) -> ApiConnection:
        return ApiConnection(
            cast("web.Server", self._runner.server),
            loop=asyncio.get_running_loop(),
            shedder=self.admission.shedder,
            fast_path=self.fast_path,
            identities=self._identities,
            **self._connection_options,
        )

    async def stop(self) -> None:
        """Accept no more connections, wait for requests under way, close."""
        self._host_facts.watch.stop()
        if self._token_timer is not None:
            self._token_timer.cancel()
        self.listener.close()
        self.admission.close()
        await self._runner.cleanup()


async def run_replica(config: CoordinatorConfig, shares: DescriptorShares) -> int:
    """Run one replica until a signal stops it (SIGTERM, SIGINT) or it fails. Returns the exit code.

    SIGHUP has it read its certificates, its secret and its token again.
    """
    loop = asyncio.get_running_loop()
    service = ServiceManager()
    stop = asyncio.Event()

    def asked_to_stop() -> None:
        service.stopping()
        stop.set()

    for signum in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(signum, asked_to_stop)
    certificates = CertificateReloader()
    loop.add_signal_handler(signal.SIGHUP, certificates.reload)
    fs = RealFileSystem()
    replica: Replica | None = None
    server: HttpServer | None = None
    try:
        replica = build_replica(config, fs, certificates=certificates)
        server = HttpServer(replica, shares, fs.sync_times, certificates)
        await replica.start()
        await asyncio.to_thread(_close_data_dir, config)
        await server.start()
    except (ConfigError, ReplicaFailedError, ValueError) as error:
        _log.error("replica %s cannot start: %s", config.name, error)
        await _shut_down(replica, server, config)
        fs.close()
        return EXIT_FAILED if isinstance(error, ReplicaDiskError) else EXIT_REFUSED
    _limit_pauses()
    _log.info(
        "replica %s of cluster %s serves %s, data in %s",
        config.name,
        config.cluster_id,
        config.member.url,
        config.data_dir,
    )
    if config.insecure and config.token is None and config.tls.api_client_ca is None and not config.bind.is_loopback:
        _log.warning("--insecure: everybody who reaches %s can run commands on every agent", config.member.url)
    saver = SnapshotService(config, replica.snapshots, partial(digests_of, replica.machine), SystemClock().now_ms)
    saver.start()
    watching = loop.create_task(certificates.watch(CERTIFICATE_LOOK_S))
    service.start(lambda: replica.status().ready)
    code = await _run_until_stopped(replica, stop)
    service.stopping()
    watching.cancel()
    await saver.stop()
    await _shut_down(replica, server, config)
    service.close()
    fs.close()
    return code


def _close_data_dir(config: CoordinatorConfig) -> None:
    """Take the rights of others from the data directory, which an older version or an operator may have left open."""
    try:
        changed = close_to_others(config.data_dir)
    except OSError as error:
        _log.error("the rights of other users to %s cannot be taken away: %s", config.data_dir, error)
        return
    if changed:
        _log.warning(
            "other users had rights to %s, which holds all documents and results: taken away now, from %d files and "
            "folders, %s first",
            config.data_dir,
            len(changed),
            changed[0],
        )


async def _run_until_stopped(replica: Replica, stop: asyncio.Event) -> int:
    stopping = asyncio.ensure_future(stop.wait())
    failing = asyncio.ensure_future(replica.wait_failed())
    await asyncio.wait((stopping, failing), return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    if failing.done():
        reason = failing.result()
        if isinstance(reason, ReplicaRemovedError):
            _log.info("the replica stops: it was removed from the cluster")
            return EXIT_OK
        _log.critical("the replica stops: %s", reason)
        return EXIT_REFUSED if isinstance(reason, ReplicaRefusedError) else EXIT_FAILED
    failing.cancel()
    _log.info("asked to stop")
    await replica.hand_over()
    return EXIT_OK


async def _shut_down(replica: Replica | None, server: HttpServer | None, config: CoordinatorConfig) -> None:
    """Stop what was started, within the configured time.

    Requests have a part of it, so that the log is closed in order even if a request does not end.
    """
    limit_s = config.timing.shutdown_ms / 1000
    try:
        async with asyncio.timeout(limit_s):
            if replica is not None:
                replica.answer_held()
            if server is not None:
                await _stop_serving(server, limit_s * _REQUESTS_SHARE)
            if replica is not None:
                await replica.stop()
    except TimeoutError:
        _log.warning("the graceful stop took longer than %d ms and was cut short", config.timing.shutdown_ms)


async def _stop_serving(server: HttpServer, limit_s: float) -> None:
    """Close the server; requests that have not ended after `limit_s` are left alone."""
    try:
        async with asyncio.timeout(limit_s):
            await server.stop()
    except TimeoutError:
        _log.warning("requests had not ended after %.1f s of the graceful stop", limit_s)


def _limit_pauses() -> None:
    """Limit the pauses that the garbage collector and other threads cause.

    The objects that exist now stay, and the others are short-lived, so the collector may run rarely.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
    sys.setswitchinterval(SWITCH_S)


def run(config: CoordinatorConfig) -> int:
    """Run one replica on the fastest event loop that is installed. Returns the exit code."""
    try:  # before the event loop opens descriptors
        limit, in_use = descriptors.raise_limit(), descriptors.open_now()
        shares = descriptors.share_out(limit, in_use, config.limits.connections)
    except ConfigError as error:
        _log.error("replica %s cannot start: %s", config.name, error)
        return EXIT_REFUSED
    ask_for_priority()
    os.umask(0o077)
    return _event_loop_runner()(run_replica(config, shares))


def _event_loop_runner() -> Callable[..., int]:
    with contextlib.suppress(ImportError):
        import uvloop  # noqa: PLC0415 - optional

        return cast("Callable[..., int]", uvloop.run)
    return asyncio.run
