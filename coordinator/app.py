"""The coordinator, assembled: hub, trunk, engine and HTTP API on one event loop.

Guarantees: nodes can join and download, and clients can connect, while the trunk is still loading; the process holds the trunk's weights,
and experts only within what it is told to host itself; no other coordinator runs on the same state folder; `stop`, from whatever point
on, ends clients' streams with an error, links with a reason, and leaves no thread or port behind.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from functools import partial

import torch
from prometheus_client import CollectorRegistry

from ..amounts import format_bytes
from ..errors import TrustError
from ..kernels.threads import set_native_threads
from ..models.prepared import PreparedModel
from ..models.trunk import Trunk
from ..object_memory import settle
from ..open_files import allow_many_files
from ..state_lock import StateLock
from ..trust.keys import Identity, SignatureError, VerifyingKey, WeakKeyError
from ..trust.statements import manifest_statement
from ..trust.tls import TlsIdentity
from .api.app import create_app
from .api.metrics import ConsequencesCollector, RequestMetrics
from .audit.auditing import Auditing
from .audit.counters import AuditCounters
from .audit.standing_book import StandingBook
from .books.books import Books
from .books.metrics import BooksCollector
from .dispatch.counters import DispatchCounters
from .dispatch.network_experts import NetworkExperts
from .dispatch.verified_result import watched_by
from .engine.engine import Engine
from .generation_defaults import api_settings
from .http_server import HttpServer
from .hub.hub import Hub
from .hub.join_secret import load_or_create_join_secret
from .ledger.public_log import PublicLog
from .ledger.receipt_counters import ReceiptCollector
from .ledger.scribe import Scribe
from .metrics import NetworkCollector
from .placement.noted_experts import NotedExperts
from .probe.assembling import make_prober
from .self_host.hosting import SelfHosting
from .settings import CoordinatorSettings

log = logging.getLogger(__name__)

IDENTITY_FILE = "identity.key"


class ManifestSignatureError(TrustError):
    """The manifest's signature is not that of the key that is said to have signed it."""


class NotStartedError(RuntimeError):
    """Something was asked of a coordinator that is not that far yet."""


class Coordinator:
    """One coordinator: `open`, then `serve` (or `start`, which is both), and `stop` at the end."""

    def __init__(self, settings: CoordinatorSettings) -> None:
        self.settings = settings
        self.registry = CollectorRegistry()
        self.counters = DispatchCounters()
        self.audits = AuditCounters()
        self._auditing: Auditing | None = None
        self._books: Books | None = None
        self._public_log: PublicLog | None = None
        self._scribe: Scribe | None = None
        self._prepared: PreparedModel | None = None
        self._lock: StateLock | None = None
        self._identity: Identity | None = None
        self._hub: Hub | None = None
        self._http: HttpServer | None = None
        self._engine: Engine | None = None

    async def open(self) -> None:
        """Opens the model and takes both ports: nodes can join from here on, and clients' requests wait.

        Raises:
            ModelError: when the model is not there, or damaged.
            TrustError: when its signature, or a key file, is not right.
            StateError: when the state folder cannot be used, or another coordinator uses it.
            UnavailableError: when a port is in use.
        """
        settings = self.settings
        self._prepared = prepared = await asyncio.to_thread(PreparedModel.open, settings.model)
        check_signature(prepared)
        self._lock = StateLock(settings.state_dir, "coordinator")
        self._identity = identity = Identity.load_or_create(settings.state_dir / IDENTITY_FILE)
        tls = TlsIdentity.load_or_create(settings.state_dir, identity)
        join_secret = load_or_create_join_secret(settings.state_dir)
        self._http = HttpServer(settings.api_host, settings.api_port)
        self._public_log = public_log = await asyncio.to_thread(PublicLog, settings.state_dir, identity)
        self._books = books = await asyncio.to_thread(
            Books, settings.books, settings.state_dir, identity.public
        )
        standings = StandingBook(books.standings, settings.audit.standing)
        self._auditing = auditing = await asyncio.to_thread(
            Auditing,
            settings.state_dir,
            prepared,
            identity,
            standings,
            self.audits,
            settings.audit,
            public_log,
        )
        self._scribe = scribe = await asyncio.to_thread(
            Scribe, books.receipts, prepared.manifest, identity, public_log, settings.receipts
        )
        scribe.start()
        hub = Hub(
            settings.hub,
            identity,
            tls,
            join_secret,
            prepared,
            self.counters,
            books.placement(prepared.manifest),
            standings,
            public_log,
            scribe,
            self_hosting(prepared, identity, settings.self_host_bytes),
            books.contributors,
            await asyncio.to_thread(
                partial(
                    make_prober,
                    settings.state_dir,
                    prepared,
                    identity,
                    self.counters,
                    standings,
                    settings.probe,
                    evidence=auditing.evidence,
                    watcher=scribe.watch,
                    on_convicted=auditing.convicted_elsewhere,
                )
            ),
        )
        hub.subscribe(
            lambda node, change: books.states.changed(
                node, change.state.value, change.reason, change.at_unix_s
            )
        )
        await hub.start()
        self._hub = hub
        await asyncio.to_thread(books.listens, hub.invite.address)
        auditing.start()
        self.registry.register(BooksCollector(books.writer))
        self.registry.register(NetworkCollector(hub.snapshot))
        self.registry.register(ReceiptCollector(scribe.counters))

    async def serve(self) -> None:
        """Loads the trunk and answers requests; returns when the API answers.

        Raises:
            ModelError: when the trunk cannot be loaded.
        """
        prepared, hub, http = self._prepared, self._hub, self._http
        auditing, public_log, identity = self._auditing, self._public_log, self._identity
        if prepared is None or hub is None or http is None or auditing is None:
            raise NotStartedError("open comes before serve")
        if public_log is None or identity is None or self._scribe is None or self._books is None:
            raise NotStartedError("open comes before serve")
        log.info("loading the trunk of %s", prepared.name)
        threads = self.settings.threads or torch.get_num_threads()
        trunk = await asyncio.to_thread(Trunk.load, prepared, threads=threads)
        tokenizer = await asyncio.to_thread(prepared.tokenizer)
        pool = NetworkExperts(
            asyncio.get_running_loop(),
            hub.directory,
            prepared.manifest,
            identity.public,
            self.counters,
            self.settings.dispatch,
            watched_by(self._scribe.watch, auditing.watcher),
            auditing.rivals_watcher,
            auditing.unusable_watcher,
        )
        metrics = RequestMetrics(self.registry)
        engine = await asyncio.to_thread(
            partial(Engine, audits=auditing.watcher is not None, trusted=auditing.trusts),
            trunk,
            pool if hub.usage is None else NotedExperts(pool, hub.usage),
            tokenizer,
            self.settings.engine,
            hub.covered,
            metrics,
        )
        auditing.call_witnesses(pool, self._books.owner_of)
        auditing.tell_convictions(engine.rewind)
        self.registry.register(ConsequencesCollector(engine.stats))
        metrics.watch(lambda: engine.stats().running, lambda: engine.stats().waiting)
        engine.start()
        self._engine = engine
        app = create_app(
            engine,
            tokenizer,
            prepared.name,
            lambda: (
                hub.snapshot().document()
                | {"audits": auditing.published.document(), "answers": engine.consequences()}
            ),
            self.registry,
            api_settings(self.settings.api, prepared.folder),
            public_log.read,
            self._books.leaderboard,
        )
        await http.start(app)
        log.info("serving %s on %s", prepared.name, http.url)

    async def start(self) -> None:
        """`open` and `serve`; what was begun is ended again when either fails."""
        try:
            await self.open()
            await self.serve()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Ends everything that runs. Calling it twice, or at any point of `start`, is harmless."""
        if self._hub is not None:
            self._hub.directory.close()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)
            self._engine = None
        if self._http is not None:
            await self._http.stop()
            self._http = None
        # Before the links end, or openings that nobody can send any more would count as missing.
        if self._auditing is not None:
            await self._auditing.close()
            self._auditing = None
        if self._hub is not None:
            await self._hub.stop()
            self._hub = None
        if self._scribe is not None:
            await self._scribe.close()
            self._scribe = None
        if self._public_log is not None:
            await asyncio.to_thread(self._public_log.close)
            self._public_log = None
        if self._books is not None:
            await asyncio.to_thread(self._books.close)
            self._books = None
        if self._prepared is not None:
            self._prepared.close()
            self._prepared = None
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def ended(self) -> None:
        """Waits until the API ends."""
        if self._http is not None:
            await self._http.ended()

    @property
    def invite(self) -> str:
        """The string that lets a node join."""
        return self.hub.invite.encode()

    @property
    def api_url(self) -> str:
        """Where the HTTP API is."""
        if self._http is None:
            raise NotStartedError("the API has no address before open, and none after stop")
        return self._http.url

    @property
    def hub(self) -> Hub:
        """The links."""
        if self._hub is None:
            raise NotStartedError("there is no hub before open, and none after stop")
        return self._hub

    @property
    def engine(self) -> Engine:
        """The engine."""
        if self._engine is None:
            raise NotStartedError("there is no engine before serve, and none after stop")
        return self._engine


def check_signature(prepared: PreparedModel) -> None:
    """Checks who vouches for a prepared model's manifest; a model that nobody signed is only remarked on.

    Raises:
        ManifestSignatureError: when it is signed, and not by the key that is named.
    """
    signature = prepared.signature
    if signature is None:
        log.warning("nobody signed the manifest of %s; this coordinator vouches for it now", prepared.folder)
        return
    try:
        VerifyingKey(signature.key).verify(signature.signature, manifest_statement(prepared.manifest.digest))
    except (SignatureError, WeakKeyError) as error:
        raise ManifestSignatureError(
            f"the manifest in {prepared.folder} is not signed by the key that it names",
            advice="prepare the model again: folkmoot model prepare",
        ) from error


def self_hosting(prepared: PreparedModel, identity: Identity, memory_bytes: int) -> SelfHosting | None:
    """What the coordinator is to host itself within so much memory; None when that is nothing."""
    if not memory_bytes:
        return None
    machine_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if min(memory_bytes, prepared.manifest.total_expert_bytes) > machine_bytes:
        log.warning(
            "this machine has %s of memory, and the coordinator is to host %s of experts itself: the disk will be read all the time",
            format_bytes(machine_bytes),
            format_bytes(memory_bytes),
        )
    return SelfHosting(identity.node_id, prepared, memory_bytes)


async def run(settings: CoordinatorSettings, announce: Callable[[Coordinator], None]) -> None:
    """Runs a coordinator until it is cancelled or its API ends.

    Args:
        settings: What it is told.
        announce: Called once nodes can join and clients can connect: `invite` and `api_url` are known. Requests that
            come before the trunk is loaded wait for it.

    Raises:
        FolkmootError: what kept it from starting.
    """
    if settings.threads:
        torch.set_num_threads(settings.threads)
    set_native_threads(torch.get_num_threads())
    allow_many_files()
    coordinator = Coordinator(settings)
    try:
        await coordinator.open()
        announce(coordinator)
        await coordinator.serve()
        settle()
        await coordinator.ended()
    finally:
        await coordinator.stop()
