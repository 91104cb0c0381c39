"""The world of a transcript of the log: real replicas on a virtual clock, a simulated network and simulated disks.

Commands (arguments are replica names unless said otherwise):

    cluster n1 n2 n3       name the founders, whose disks are empty. Options are settings of `LogConfig` (integers)
    serve n1 n2 n3         the same, start them and wait for a leader; what they say meanwhile is not shown
    start n1 ...           start replicas; `bootstrap n1 ...` starts them with the operator's order to found a cluster
    join n4                start a replica that is to be added, on an empty disk
    wait CONDITION         let time pass until it holds, at most a minute: `leader`, `settled` (all that run have
                           applied the same log), or one of `stopped`, `whole`, `ready`, `receiving` with a name: it
                           ended by itself, its repair is over, it serves, a snapshot is coming in
    run SECONDS            let time pass
    campaign n1            stand for election at once
    write n1 TEXT          submit an entry; options count=N, size=BYTES; `post` does not wait for the outcome
    read n1                confirm a linearizable read
    transfer n1 n2         n1 hands leadership over to n2
    add n4, remove n3      a change of members, at the leader
    snapshot n1            write a snapshot and trim the log behind it
    cut n1 n2, isolate n1  no frame passes between them, or to and from n1; `hold n1 n2` cuts the direction from n1 to
                           n2 only; `heal` ends every cut
    stop n1, crash n1      end the process; the power fails, and what is not synced is lost
    wipe n1, damage n1     with a replica that does not run: empty its disk; flip a bit in the middle of its journal
    copy n1, put-back n1   keep a copy of its disk; put it back
    status                 every replica that runs: role, term, log, commit index, snapshot
    entries n1             what the state machine of a replica holds

What happens meanwhile is printed in order, each line with the replica: roles as the log announces them, and what it
logs. The least name has the shortest election timeout, so that elections without `campaign` have a known winner.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import random
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raftflow.domain.features import LEVEL
from raftflow.replication.config import LogConfig
from raftflow.replication.engine import PySyncObjLog
from raftflow.replication.errors import LogFailedError, NoQuorumError
from raftflow.replication.log import Applied, LogStatus, Outcome, Rejected, Role
from raftflow.replication.members.births import IntroducedPeers
from raftflow.replication.members.introducer import Introducer
from raftflow.replication.members.membership import ChangeRefusedError, MemberInfo, MembershipVersion, NotReadyError
from raftflow.simulation.world.disk import FaultyFileSystem, Loss
from raftflow.simulation.world.loop import Process, VirtualLoop, current_process
from raftflow.simulation.world.network import Network, SimLinks
from raftflow.simulation.world.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Iterator

    from transcripts import TranscriptCommand

DATA_DIR = Path("/data")
DELAY_S = 0.001
WAIT_S = 60.0
TIMEOUT_S = 2.0


class Words:
    """A state machine that holds the entries it applied."""

    def __init__(self) -> None:
        self.words: list[bytes] = []

    def apply(self, index: int, term: int, entry: bytes) -> int:
        del index, term
        self.words.append(entry)
        return len(self.words)

    def snapshot(self) -> Iterator[bytes]:
        return iter([word + b"\n" for word in self.words])

    def prepare(self, pieces: Iterable[bytes]) -> Callable[[], None]:
        words = b"".join(pieces).split(b"\n")[:-1]

        def replace() -> None:
            self.words = words

        return replace


class Host:
    """One machine: its disk, and the replica that runs on it."""

    def __init__(self, name: str, number: int) -> None:
        self.name = name
        self.number = number
        self.disk = FaultyFileSystem(keep_trace=False)
        self.copy: dict[Path, bytes] = {}
        self.joins = False
        self.process: Process | None = None
        self.machine = Words()
        self.log: PySyncObjLog
        self.links: SimLinks


class _EventHandler(logging.Handler):
    """Notes what replicas log. That a replica leads is noted from the announcement of its role."""

    def __init__(self, note: Callable[[str, str], None]) -> None:
        super().__init__(logging.INFO)
        self._note = note

    def emit(self, record: logging.LogRecord) -> None:
        process = current_process()
        if record.name.endswith(".roles") and record.levelno == logging.INFO:
            return
        level = "" if record.levelno == logging.INFO else f"{record.levelname.lower()}: "
        self._note(process.name if process is not None else "-", level + record.getMessage())


class LogScenario:
    """Executes the commands of one transcript. Make it inside a `VirtualLoop`."""

    def __init__(self, loop: VirtualLoop) -> None:
        self._loop = loop
        self._rng = random.Random(1)
        self._network = Network(loop, self._rng, Trace(loop), lambda _direction: DELAY_S)
        self._hosts: dict[str, Host] = {}
        self._founders: tuple[str, ...] = ()
        self._settings: dict[str, Any] = {}
        self._events: list[str] = []
        self._tasks: set[asyncio.Future[Any]] = set()
        self._handler = _EventHandler(self._note)

    def _note(self, name: str, what: str) -> None:
        self._events.append(f"{name}: {what}")

    async def run(self, commands: list[TranscriptCommand]) -> list[str]:
        """Execute all commands; returns the output of each."""
        logger = logging.getLogger("raftflow.replication")
        before = logger.level
        logger.addHandler(self._handler)
        logger.setLevel(logging.INFO)
        try:
            return [await self._execute(command) for command in commands]
        finally:
            logger.removeHandler(self._handler)
            logger.setLevel(before)
            for host in self._hosts.values():
                self._end(host)

    async def _execute(self, command: TranscriptCommand) -> str:
        execute = getattr(self, "do_" + command.name.replace("-", "_"), None)
        if execute is None:
            raise ValueError(f"line {command.line}: no command is called {command.name}")
        answer = await execute(*command.arguments, **command.options)
        events, self._events = self._events, []
        return "\n".join([*events, *([answer] if answer else [])])

    # Processes.

    async def do_cluster(self, *names: str, **settings: str) -> None:
        self._founders = names
        self._settings = {name: int(value) for name, value in settings.items()}
        for name in names:
            self._hosts[name] = Host(name, len(self._hosts))

    async def do_serve(self, *names: str, **settings: str) -> str:
        await self.do_cluster(*names, **settings)
        await self.do_start(*names)
        await self.do_wait("leader")
        self._events.clear()
        return await self.do_status()

    async def do_start(self, *names: str) -> None:
        for name in names:
            await self._start(self._hosts[name])

    async def do_bootstrap(self, *names: str) -> None:
        for name in names:
            await self._start(self._hosts[name], bootstrap=True)

    async def do_join(self, name: str) -> None:
        host = self._hosts[name] = Host(name, len(self._hosts))
        host.joins = True
        await self._start(host)

    async def _start(self, host: Host, *, bootstrap: bool = False) -> None:
        if host.process is not None:
            raise ValueError(f"{host.name} runs already")
        host.process = process = Process(host.name)
        process.context.run(self._build, host, bootstrap=bootstrap)
        starting = self._loop.create_task(self._live(host), context=process.context)
        self._tasks.add(starting)
        await asyncio.sleep(0.02)

    def _build(self, host: Host, *, bootstrap: bool) -> None:
        process = host.process
        assert process is not None
        introducer = Introducer(host.disk, DATA_DIR, level=LEVEL, new_nonce=lambda: f"{self._rng.getrandbits(64):x}")
        links = host.links = SimLinks(self._network, process, introducer, LEVEL)
        named = {*self._founders, host.name}
        election_min_s = 0.3 + 0.2 * host.number
        config = LogConfig(
            name=host.name,
            members=(*self._founders, host.name) if host.joins else self._founders,
            cluster_id="transcript",
            data_dir=DATA_DIR,
            join=host.joins,
            bootstrap=bootstrap,
            election_min_s=election_min_s,
            election_max_s=election_min_s + 0.01,
            silence_s=0.3,
            segment_bytes=8192,
            snapshot_retry_s=2.0,
            **self._settings,
        )

        def follow(version: MembershipVersion) -> None:
            links.membership = version
            introducer.update(version)
            linked = (named | set(version.members.names)) - set(version.removed) - {host.name}
            links.set_peers(dict.fromkeys(sorted(linked)))

        host.machine = Words()
        host.log = PySyncObjLog(
            config,
            host.machine,
            links,
            host.disk,
            on_members=follow,
            introduced_peers=IntroducedPeers(introducer, LEVEL),
        )
        host.log.on_role_change(lambda role, term: self._note(host.name, f"{role.value} in term {term}"))

    async def _live(self, host: Host) -> None:
        process = host.process
        try:
            await host.log.start()
        except LogFailedError as error:
            self._note(host.name, f"does not start: {error}")
        else:
            await host.log.wait_failed()
            self._note(host.name, "stopped")
        if host.process is process:
            self._loop.call_later(0.0, self._end, host, context=contextvars.Context())

    def _end(self, host: Host, loss: Loss = Loss.NONE) -> None:
        process, host.process = host.process, None
        if process is not None:
            self._loop.kill(process)
            self._network.leave(host.links, silently=loss is Loss.ALL)
            host.disk.restart(loss, self._rng)

    async def do_stop(self, name: str) -> None:
        host = self._running(name)
        await self._in(host, host.log.close())
        self._end(host)

    async def do_crash(self, *names: str) -> None:
        for name in names:
            self._end(self._running(name), Loss.ALL)

    def _running(self, name: str) -> Host:
        host = self._hosts[name]
        if host.process is None:
            raise ValueError(f"{name} does not run")
        return host

    def _in(self, host: Host, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        """Run a coroutine as part of the replica's process."""
        assert host.process is not None
        task = self._loop.create_task(work, context=host.process.context)
        self._tasks.add(task)
        return task

    def _up(self) -> list[Host]:
        """The replicas that run and have started."""
        return [host for host in self._hosts.values() if host.process is not None and host.log.is_running]

    # Time.

    async def do_run(self, seconds: str) -> None:
        await asyncio.sleep(float(seconds))

    async def do_wait(self, condition: str, name: str = "") -> str:
        holds = {
            "leader": lambda: any(host.log.status().role is Role.LEADER for host in self._up()),
            "settled": self._is_settled,
            "stopped": lambda: self._hosts[name].process is None,
            "whole": lambda: not self._hosts[name].log.repairing,
            "ready": lambda: self._hosts[name].log.status().ready,
            "receiving": lambda: self._hosts[name].log.parts.incoming_snapshot.is_receiving,
        }[condition]
        until = self._loop.time() + WAIT_S
        while not holds():
            if self._loop.time() > until:
                return f"it does not come about within {WAIT_S:.0f} s"
            await asyncio.sleep(DELAY_S)
        return ""

    def _is_settled(self) -> bool:
        views = [host.log.status() for host in self._up()]
        ends = {(view.term, view.last_index, view.applied_index, view.leader) for view in views}
        return len(ends) == 1 and views[0].leader is not None and views[0].applied_index == views[0].last_index

    # Clients and operators.

    async def do_campaign(self, name: str) -> str:
        host = self._running(name)

        async def campaign() -> None:
            host.log.parts.raft.campaign_now()
            host.log.parts.driver.request_turn()

        await self._in(host, campaign())
        await asyncio.sleep(0.1)
        return ""

    async def do_write(self, name: str, *texts: str, count: str = "1", size: str = "0") -> str:
        host = self._running(name)
        outcomes = [await self._in(host, host.log.submit(entry, TIMEOUT_S)) for entry in _entries(texts, count, size)]
        return _describe(outcomes[-1]) if len({type(outcome) for outcome in outcomes}) == 1 else "mixed outcomes"

    async def do_post(self, name: str, *texts: str) -> None:
        host = self._running(name)
        for entry in _entries(texts, "1", "0"):
            task = self._in(host, host.log.submit(entry, WAIT_S))
            what = entry.decode()
            task.add_done_callback(lambda done, what=what: self._note(name, f"{what}: {_describe(done.result())}"))
        await asyncio.sleep(0.01)

    async def do_read(self, name: str) -> str:
        host = self._running(name)
        try:
            index = await self._in(host, host.log.read_index(TIMEOUT_S))
        except NoQuorumError as error:
            return f"refused: {error.reason}"
        return f"linearizable at index {index}"

    async def do_transfer(self, source: str, target: str) -> str:
        host = self._running(source)
        done = await self._in(host, host.log.transfer_leadership(target, TIMEOUT_S))
        return f"{target} leads" if done else "not handed over"

    async def do_add(self, name: str) -> str:
        return await self._change(lambda log: log.add_member(MemberInfo(name), 10.0))

    async def do_remove(self, name: str) -> str:
        return await self._change(lambda log: log.remove_member(name, 10.0))

    async def _change(self, change: Callable[[PySyncObjLog], Coroutine[Any, Any, Any]]) -> str:
        leaders = [host for host in self._up() if host.log.status().role is Role.LEADER]
        if not leaders:
            return "there is no leader"
        leader = max(leaders, key=lambda host: host.log.status().term)
        try:
            members = await self._in(leader, change(leader.log))
        except (ChangeRefusedError, NotReadyError) as error:
            return f"refused: {error}"
        return f"voters: {' '.join(sorted(members.voter_names))}"

    async def do_snapshot(self, name: str) -> str:
        host = self._running(name)
        before = host.log.status().snapshot_index

        async def request() -> None:
            host.log.request_snapshot()

        await self._in(host, request())
        while host.log.status().snapshot_index == before or host.log.parts.snapshot_port.writing:  # noqa: ASYNC110 - virtual clock
            await asyncio.sleep(0.01)
        return f"snapshot of entry {host.log.status().snapshot_index}"

    # Faults.

    async def do_cut(self, one: str, other: str) -> None:
        self._network.cut(one, other)
        self._network.cut(other, one)

    async def do_hold(self, source: str, target: str) -> None:
        self._network.cut(source, target)

    async def do_isolate(self, name: str) -> None:
        for other in sorted(self._hosts.keys() - {name}):
            await self.do_cut(name, other)

    async def do_heal(self) -> None:
        self._network.heal_all()

    async def do_wipe(self, *names: str) -> None:
        for name in names:
            self._idle(name).disk = FaultyFileSystem(keep_trace=False)

    async def do_copy(self, name: str) -> None:
        self._hosts[name].copy = self._hosts[name].disk.copy()

    async def do_put_back(self, name: str) -> None:
        self._idle(name).disk.replace(self._hosts[name].copy)

    async def do_damage(self, name: str) -> str:
        disk = self._idle(name).disk
        journal = DATA_DIR / "journal"
        file = journal / min(entry for entry in disk.list_dir(journal) if entry.endswith(".segment"))
        used = len(disk.content(file).rstrip(b"\0"))
        disk.flip(file, used // 2, 1)
        return f"a bit of {file} is flipped"

    def _idle(self, name: str) -> Host:
        if self._hosts[name].process is not None:
            raise ValueError(f"{name} runs")
        return self._hosts[name]

    # What is seen.

    async def do_status(self) -> str:
        return "\n".join(_show(host) for host in self._up())

    async def do_entries(self, name: str) -> str:
        return " ".join(word.decode() for word in self._hosts[name].machine.words) or "none"


def _entries(texts: tuple[str, ...], count: str, size: str) -> list[bytes]:
    words = [word if count == "1" else f"{word}{number}" for word in texts for number in range(1, int(count) + 1)]
    return [word.encode().ljust(int(size), b".") for word in words]


def _describe(outcome: Outcome) -> str:
    if isinstance(outcome, Applied):
        return f"applied at index {outcome.index} of term {outcome.term}"
    kind = "rejected" if isinstance(outcome, Rejected) else "unknown"
    return f"{kind}: {outcome.reason}"


def _show(host: Host) -> str:
    view: LogStatus = host.log.status()
    notes = [] if view.ready else ["not ready"]
    if host.log.repairing:
        notes.append("repairing")
    if view.snapshot_index:
        notes.append(f"snapshot {view.snapshot_index}")
    first = host.log.parts.raft.first_index
    return (
        f"{host.name} {view.role.value:<9} term {view.term}  log {first}..{view.last_index}  "
        f"applied {view.applied_index}  {', '.join(notes)}"
    ).rstrip()


def run_scenario(commands: list[TranscriptCommand]) -> list[str]:
    """Execute commands on a loop of their own; returns the output of each."""
    random.seed(1)
    loop = VirtualLoop()
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(LogScenario(loop).run(commands))
    finally:
        loop.over = True
        for task in asyncio.all_tasks(loop):
            task._log_destroy_pending = False
        loop.bury()
        asyncio.set_event_loop(None)
