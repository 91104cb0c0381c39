"""Code bundles on every replica: sent to a majority before the log names one, fetched where one is missing.

A bundle is registered in the log when a majority of the voters has it on the disk. So every majority that can elect a
leader has a replica with the bundle, and each replica that lacks it finds it there: one that was down, joined, was
installed from a snapshot, or whose file was damaged. The members change only when this holds for the present voters
(`BundleReplication.spread`): else some changes in a row could remove all replicas that have a bundle.

What the log does not name stays for a while, since it may be about to be registered. Then it is removed.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import TYPE_CHECKING, Final, Protocol

from raftflow.coordinator.bundles.store import BundleMissingError, BundleStore
from raftflow.coordinator.commit.submitter import BusyError, NoLeaderError
from raftflow.domain.commands import RegisterBundle, RetireBundles
from raftflow.domain.limits import BUNDLE_BYTES_MAX, BUNDLE_UNUSED_MIN_MS
from raftflow.domain.rejections import Rejection, RejectionCode
from raftflow.domain.values.code_bundle import BundleError, digest_of, read_bundle
from raftflow.machine.commands.bundles import room_problem
from raftflow.machine.read.bundles import unused_bundles

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from raftflow.coordinator.clock import WallClock
    from raftflow.coordinator.cluster_view import ClusterView
    from raftflow.coordinator.commit.submitter import Submitter
    from raftflow.domain.contract.views import MemberView
    from raftflow.domain.replies import AnyReply
    from raftflow.machine.machine import Machine
    from raftflow.machine.rows import BundleRow
    from raftflow.replication.files import FileSystem

_log = logging.getLogger(__name__)

RECEIVED_MAX: Final = 4
"""Bundles that one replica takes in at the same time."""
COPY_S: Final = 15.0
"""How long a majority may take to get a bundle on the disk."""
LOOK_S: Final = 5.0
"""How often a replica looks for bundles that it lacks, or keeps for nothing, though nothing was applied."""
ASK_S: Final = 2.0
"""How long replicas are asked whether they have a bundle."""
SPREAD_AT_ONCE: Final = 8
"""Bundles that are looked after at the same time before the members change."""
_AGAIN_S: Final = 0.3
UNREGISTERED_S: Final = 600.0
"""For so long a bundle is kept that the log does not name. Much longer than it takes to register one."""


class BundlePeerError(Exception):
    """Another replica did not do what it was asked for. Says why."""


class BundlePeers(Protocol):
    """The other replicas."""

    async def send(self, url: str, digest: str, bundle: bytes) -> None:
        """Have a replica keep a bundle; it is on its disk when this returns. Raises `BundlePeerError`."""

    async def fetch(self, url: str, digest: str, size: int) -> bytes:
        """Return the bytes that a replica has for a bundle, unchecked. Raises `BundlePeerError`."""

    async def has(self, url: str, digest: str, size: int) -> bool:
        """Ask a replica whether it has a bundle on its disk. Raises `BundlePeerError` if it does not say."""


class BundleReplication:
    """The code bundles of one replica.

    Args:
        name: of this replica.
        machine: knows which bundles the log names.
        store: those that are on the disk.
        fs: computes digests beside the event loop.
        submitter: proposes commands.
        cluster: the members.
        clock: the time for commands.
    """

    def __init__(
        self,
        *,
        name: str,
        machine: Machine,
        store: BundleStore,
        fs: FileSystem,
        submitter: Submitter,
        cluster: ClusterView,
        clock: WallClock,
    ) -> None:
        self._name = name
        self._machine = machine
        self._fs = fs
        self._submitter = submitter
        self._cluster = cluster
        self._clock = clock
        self.store = store
        self.peers: BundlePeers | None = None
        """Set before the replica starts; without it a replica is alone with its bundles."""
        self._receiving = 0
        self._copying: set[asyncio.Task[None]] = set()
        self._told_missing: set[str] = set()
        """Bundles that the log has said to be missing: once each, until they are here."""
        self._unregistered: dict[str, float] = {}
        """When a bundle was first seen that the log does not name."""
        self._revision = -1
        self._wake = asyncio.Event()
        self._looking: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin. Raises `OSError` if the folder cannot be read."""
        self.store.open()
        self._looking = asyncio.get_running_loop().create_task(self._look_again_and_again(), name="bundles")

    async def stop(self) -> None:
        """End. Safe to call twice."""
        tasks = [*self._copying, *([] if self._looking is None else [self._looking])]
        self._looking = None
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    def on_applied(self) -> None:
        """Follow an applied entry."""
        revision = self._machine.tables.bundles.revision
        if revision != self._revision:
            self._revision = revision
            self._wake.set()

    # --- a bundle comes in

    async def receive(
        self, digest: str, bundle: bytes, actor: str, propose: Callable[[RegisterBundle], Awaitable[AnyReply]]
    ) -> AnyReply:
        """Keep a bundle of a client on a majority of the voters, then register it.

        `actor` is the client, `propose` proposes the command for it. Returns its reply, or a refusal of the bundle
        itself. Raises `ProposeError`s and, if this replica's own disk does not take it, `OSError`.
        """
        if self._receiving >= RECEIVED_MAX:
            raise BusyError(f"{RECEIVED_MAX} code bundles are being taken in")
        self._receiving += 1
        try:
            wrong = await self._fs.off_loop(lambda: _fault_of(digest, bundle))
            if wrong is not None:
                return Rejection(RejectionCode.INVALID, wrong)
            full = await self._make_room(digest, len(bundle))
            if full is not None:
                return full
            began_s = asyncio.get_running_loop().time()
            voters = self._voters()
            await self._copy_to_majority(digest, bundle)
            if self._voters() != voters:
                raise NoLeaderError("the members changed while the bundle was copied")
            # After a pause of this process the copies may have been removed again.
            if asyncio.get_running_loop().time() - began_s > 2 * COPY_S:
                raise NoLeaderError("this replica was paused while it copied the bundle")
            return await propose(
                RegisterBundle(at_ms=self._clock.now_ms(), actor=actor, digest=digest, size=len(bundle))
            )
        finally:
            self._receiving -= 1

    async def _make_room(self, digest: str, size: int) -> Rejection | None:
        """Forget bundles that nobody uses if one more does not fit. Refuses it if that does not help."""
        bundles = self._machine.tables.bundles
        if digest in bundles or room_problem(bundles, size) is None:
            return None
        unused = unused_bundles(bundles, self._machine.clock_ms - BUNDLE_UNUSED_MIN_MS)
        if unused:
            await self._submitter.propose(
                RetireBundles(
                    at_ms=self._clock.now_ms(),
                    actor=f"leader:{self._name}",
                    digests=unused,
                    unused_ms=BUNDLE_UNUSED_MIN_MS,
                )
            )
        return room_problem(self._machine.tables.bundles, size)

    async def _copy_to_majority(self, digest: str, bundle: bytes) -> None:
        """Return when a majority of the voters has the bundle on the disk. Raises `NoLeaderError`, `OSError`."""
        voters = self._cluster.voting_members()
        await self._keep_here(digest, bundle)
        missing = len(voters) // 2 + 1 - sum(voter.name == self._name for voter in voters)
        others = [voter for voter in voters if voter.name != self._name]
        failures: list[str] = []
        enough = asyncio.Event()
        left = len(others)

        async def copy(voter: MemberView) -> None:
            nonlocal missing, left
            try:
                await self._send(voter, digest, bundle)
                missing -= 1
            except BundlePeerError as error:
                failures.append(f"{voter.name}: {error}")
            finally:
                left -= 1
                if missing <= 0 or left == 0:
                    enough.set()

        if missing <= 0:
            return
        for voter in others:
            task = asyncio.get_running_loop().create_task(copy(voter))
            self._copying.add(task)
            task.add_done_callback(self._copying.discard)
        try:
            async with asyncio.timeout(COPY_S):
                await enough.wait()
        except TimeoutError:
            failures.append(f"no answer within {COPY_S:g} s")
        if missing > 0:
            raise NoLeaderError(f"no majority of the replicas has the code bundle on its disk: {'; '.join(failures)}")

    def _voters(self) -> list[str]:
        return [voter.name for voter in self._cluster.voting_members()]

    async def spread(self) -> None:
        """See that a majority of the voters has every bundle that the log names.

        Raises `NoLeaderError` if that cannot be reached now, and `OSError`.
        """
        voters = self._cluster.voting_members()
        for some in _in_groups(list(self._machine.tables.bundles.values())):
            await asyncio.gather(*[self._spread(voters, bundle.digest, bundle.size) for bundle in some])

    async def _spread(self, voters: list[MemberView], digest: str, size: int) -> None:
        majority = len(voters) // 2 + 1
        kept, lacking = await self._count_copies(voters, digest, size)
        if kept >= majority:
            return
        if not self.store.has(digest) and not await self._fetch(digest, size):
            if lacking >= majority:
                return  # it is lost, and waiting would not bring it back
            raise NoLeaderError(f"too few replicas have the code bundle {digest}, and none gives it now")
        try:
            content = await self.store.read(digest, 0, BUNDLE_BYTES_MAX)
        except BundleMissingError:
            raise NoLeaderError(f"the code bundle {digest} is fetched again") from None
        await self._copy_to_majority(digest, content)

    async def _count_copies(self, voters: list[MemberView], digest: str, size: int) -> tuple[int, int]:
        """Return how many voters have a bundle, and how many lack it. It stops when a majority has it."""
        asked = [asyncio.ensure_future(self._is_kept(voter, digest, size)) for voter in voters]
        kept = lacking = 0
        try:
            with contextlib.suppress(TimeoutError):
                for answer in asyncio.as_completed(asked, timeout=ASK_S):
                    has = await answer
                    kept += has is True
                    lacking += has is False
                    if 2 * kept > len(voters):
                        break
        finally:
            for each in asked:
                each.cancel()
        return kept, lacking

    async def _is_kept(self, voter: MemberView, digest: str, size: int) -> bool | None:
        """Tell whether a voter has a bundle. None if it does not say."""
        if voter.name == self._name:
            return self.store.has(digest)
        try:
            if self.peers is None or not voter.url:
                return None
            return await self.peers.has(voter.url, digest, size)
        except BundlePeerError:
            return None

    async def _send(self, voter: MemberView, digest: str, bundle: bytes) -> None:
        if self.peers is None or not voter.url:
            raise BundlePeerError("its address is not known")
        await self.peers.send(voter.url, digest, bundle)

    async def keep(self, digest: str, bundle: bytes) -> Rejection | None:
        """Keep a bundle that the leader takes in. It is on the disk when this returns. Raises `OSError`."""
        wrong = await self._fs.off_loop(lambda: _fault_of(digest, bundle))
        if wrong is not None:
            return Rejection(RejectionCode.INVALID, wrong)
        await self._keep_here(digest, bundle)
        return None

    async def _keep_here(self, digest: str, bundle: bytes) -> None:
        """Keep a bundle that is about to be registered. Raises `OSError`."""
        loop = asyncio.get_running_loop()
        # Before the write too: one that waited here for long could be removed right after it was written again.
        self._unregistered[digest] = loop.time()
        await self.store.put(digest, bundle)
        self._unregistered[digest] = loop.time()

    async def read(self, digest: str, offset: int, limit: int) -> bytes:
        """Return a piece of a bundle that is on the disk. Raises `BundleMissingError`, `OSError`."""
        try:
            return await self.store.read(digest, offset, limit)
        except BundleMissingError:
            self._wake.set()
            raise

    # --- what is missing, and what is not needed

    async def _look_again_and_again(self) -> None:
        again_s = _AGAIN_S
        while True:
            self._wake.clear()
            complete = False
            try:
                complete = await self._fetch_missing()
                await self._remove_unregistered()
            except OSError as error:
                _log.error("code bundles cannot be kept: %s", error)
            again_s = LOOK_S if complete else min(2 * again_s, LOOK_S)
            try:
                async with asyncio.timeout(again_s):
                    await self._wake.wait()
                    again_s = _AGAIN_S
            except TimeoutError:
                pass

    async def _fetch_missing(self) -> bool:
        """Fetch what the log names and the disk lacks. Returns whether nothing is missing then. Raises `OSError`."""
        complete = True
        self._told_missing = {digest for digest in self._told_missing if digest in self._machine.tables.bundles}
        for bundle in list(self._machine.tables.bundles.values()):
            if not self.store.has(bundle.digest):
                complete = await self._fetch(bundle.digest, bundle.size) and complete
        return complete

    async def _fetch(self, digest: str, size: int) -> bool:
        for member in self._others():
            try:
                content = await self._fetch_from(member, digest, size)
            except BundlePeerError as error:
                _log.debug("code bundle %s: %s: %s", digest, member.name, error)
                continue
            await self.store.put(digest, content)
            if digest in self._told_missing:
                self._told_missing.discard(digest)
                _log.info("the code bundle %s is here again", digest)
            return True
        if digest not in self._told_missing:
            self._told_missing.add(digest)
            _log.warning("the code bundle %s is missing here, and no other replica gives it; it is asked for", digest)
        return False

    def _others(self) -> list[MemberView]:
        """Return the other members, in another order at each replica."""
        members = self._cluster.members().members
        later = [member for member in members if member.name > self._name]
        return [*later, *(member for member in members if member.name < self._name)]

    async def _fetch_from(self, member: MemberView, digest: str, size: int) -> bytes:
        if self.peers is None or not member.url:
            raise BundlePeerError("its address is not known")
        content = await self.peers.fetch(member.url, digest, size)
        if await self._fs.off_loop(lambda: digest_of(content)) != digest:
            raise BundlePeerError("what it has is not the bundle")
        return content

    async def _remove_unregistered(self) -> None:
        """Remove what the log has not named for a while. Raises `OSError`."""
        registered, now_s = self._machine.tables.bundles, asyncio.get_running_loop().time()
        kept = [digest for digest in self.store.digests if digest not in registered]
        self._unregistered = {digest: self._unregistered.get(digest, now_s) for digest in kept}
        for digest, since_s in list(self._unregistered.items()):
            if now_s - since_s > UNREGISTERED_S:
                await self.store.remove(digest)
                self._unregistered.pop(digest, None)


def _in_groups(bundles: list[BundleRow]) -> Iterator[list[BundleRow]]:
    """Return what is looked after at the same time."""
    for first in range(0, len(bundles), SPREAD_AT_ONCE):
        yield bundles[first : first + SPREAD_AT_ONCE]


def _fault_of(digest: str, bundle: bytes) -> str | None:
    """Say why bytes are not the bundle that they are sent as; None if they are."""
    found = digest_of(bundle)
    if found != digest:
        return f"the bytes have the digest {found}, not {digest}"
    try:
        read_bundle(bundle)
    except BundleError as error:
        return f"this is not a code bundle: {error}"
    return None
