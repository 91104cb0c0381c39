"""The launcher: the process that owns every process that a task runs in.

The agent tells it what to start. It lives in a session of its own, so whatever happens to the agent, it can do the
one thing that matters for fencing: no task outlives its right to run.

    the agent's end of the socket closes   the agent is gone: everything is killed at once, the launcher ends
    the lease runs out                     everything is killed, though the agent may be stopped or stuck
    a program ends                         the rest of its process group is killed, and descendants that left the
                                           group too (the launcher adopts orphans and knows them by `ProcessMarks`)

It is one thread around epoll and starts programs with posix_spawn, which costs a third of a fork of the agent.
Started as `python -m raftflow.agent.launcher.process FD LIMITS`: its socket, and `ProgramLimits` in JSON.
"""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import select
import signal
import socket
import sys
import time
from collections import deque

import msgspec

from raftflow.agent.launcher.child import Child
from raftflow.agent.launcher.child_processes import ChildList, fence_of, kill_group, kill_process
from raftflow.agent.launcher.hardening import (
    adopt_orphans,
    hide_memory,
    ignore_signals,
    inherited,
    refuse_new_privileges,
    wake_when_parent_dies,
)
from raftflow.agent.launcher.messages import (
    CONTROL_FD,
    INSTANCE_VARIABLE,
    Alive,
    Exited,
    FromLauncher,
    LeaseExtension,
    Ping,
    Sample,
    Sampled,
    Signal,
    Spawn,
    ToLauncher,
    receive_packet,
)
from raftflow.agent.launcher.niceness import TaskNiceness
from raftflow.agent.launcher.own_peak import OwnPeak
from raftflow.agent.launcher.process_marks import ProcessMarks
from raftflow.agent.launcher.process_tree import kill_tree, read_tree, session_of
from raftflow.agent.launcher.program_limits import ProgramLimits, ProgramRlimits
from raftflow.agent.output.capture import CapturedStream
from raftflow.agent.workdir.files import CaptureFolder, is_of_the_system

_FDS = 3
"""Descriptors that come with a `Spawn` whose program is not captured."""
_DRAIN_READS_MAX = 32
_TICK_S = 1.0
"""Longest sleep while a lease is watched: sleeping does not count time in suspend, the lease does."""
_GONE_WAIT_S = 5.0
_CLEANUP_MAX_S = 10.0
"""A cleanup that takes longer is killed."""

SpawnActions = list[tuple[int, ...] | tuple[int, int, str, int, int]]

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(ToLauncher).decode


class LauncherProcess:
    """See the module's text."""

    def __init__(self, control: socket.socket, limits: ProgramLimits) -> None:
        self._instance = os.environ.get(INSTANCE_VARIABLE, "")
        self._marks = ProcessMarks(self._instance)
        self._marks.prepare()
        self._niceness = TaskNiceness(limits.niceness)
        self._rlimits = ProgramRlimits(limits)
        self._own_peak = OwnPeak()
        control.settimeout(0)
        self._control = control
        self._children: dict[int, Child] = {}
        self._pids: dict[int, Child] = {}
        self._cleaning: dict[int, Child] = {}
        """Programs that have ended and whose cleanup runs."""
        self._streams: dict[int, CapturedStream] = {}
        """Streams that are watched."""
        self._young: deque[Child] = deque()
        """Programs whose streams are not watched yet, the oldest first; some may have ended."""
        self._outgoing: deque[bytes] = deque()
        self._is_full = False
        """The agent's socket takes nothing more for now."""
        self._until_ns: int | None = None
        self._environ = {key: value for key, value in os.environ.items() if not key.startswith("_RAFTFLOW_")}
        self._null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        self._home = os.open(".", os.O_PATH | os.O_CLOEXEC)
        self._epoll = select.epoll()
        self._child_list = ChildList()
        wake, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._wake = wake
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        # It ends when the agent does. A service manager signals every process of a service: the agent must hear of it
        # and drain, and needs its launcher for that. Tasks may send anything to their parent.
        ignore_signals(frozenset({signal.SIGPIPE, signal.SIGXFSZ}))
        self._reset = (*inherited(), signal.SIGPIPE, signal.SIGXFSZ)

    def run(self) -> None:
        """Serve until the agent is gone, then kill everything."""
        control = self._control.fileno()
        self._epoll.register(control, select.EPOLLIN)
        self._epoll.register(self._wake, select.EPOLLIN)
        self._send(Alive())
        try:
            while True:
                events = self._epoll.poll(self._timeout_s())
                self._check_lease()
                self._check_cleanups()
                self._watch_streams()
                self._niceness.work()
                if not events and not self._young:
                    self._reap()  # somebody may have taken the signal away
                for fd, mask in events:
                    if fd == control:
                        if mask & select.EPOLLOUT:
                            self._flush()
                        if mask & ~select.EPOLLOUT and not self._receive():
                            return
                    elif fd == self._wake:
                        with contextlib.suppress(BlockingIOError):
                            os.read(self._wake, 4096)
                        self._reap()
                    elif fd in self._streams and self._streams[fd].read() == 0:
                        self._epoll.unregister(fd)
                        del self._streams[fd]
        finally:
            self._kill_everything()
            self._clean_up_all()
            for child in self._children.values():
                self._drain(child)

    def _timeout_s(self) -> float:
        while self._young and self._young[0].ended:
            self._young.popleft()
        if self._young:  # sooner than any tick: the lease is looked at after it
            return max(self._young[0].watch_at_s - time.monotonic(), 0.0)
        if self._niceness.due_s is not None:
            return max(self._niceness.due_s - time.monotonic(), 0.0)
        if self._cleaning:
            return _TICK_S
        if self._until_ns is None or all(child.lease_over for child in self._children.values()):
            return -1
        left_s = (self._until_ns - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
        return min(max(left_s, 0.0) + 0.001, _TICK_S)

    def _watch_streams(self) -> None:
        """Watch the streams of programs that have run for long enough."""
        while self._young and (self._young[0].ended or self._young[0].watch_at_s <= time.monotonic()):
            child = self._young.popleft()
            if not child.ended:
                self._niceness.apply_to_session(child.pid)
                for stream in child.streams:
                    with contextlib.suppress(OSError):  # no room for it in the kernel: it is read at the end
                        self._epoll.register(stream.fd, select.EPOLLIN)
                        self._streams[stream.fd] = stream

    def _check_lease(self) -> None:
        if not self._is_lease_over():
            return
        for child in self._children.values():
            if not child.lease_over and child.end is None:
                child.lease_over = child.signalled = True
                kill_group(child.pid, signal.SIGKILL)

    def _is_lease_over(self) -> bool:
        return self._until_ns is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) > self._until_ns

    def _receive(self) -> bool:
        """Carry out one message. Returns False when the agent is gone."""
        try:
            data, fds = receive_packet(self._control)
        except BlockingIOError:
            return True
        except ConnectionError:
            return False
        if not data:
            return False
        try:
            match _decode(data):
                case Spawn() as spawn:
                    self._spawn(spawn, fds)
                case Signal(id=identity, signal=number):
                    child = self._children.get(identity)
                    if child is not None and child.end is None:
                        child.signalled = True
                        kill_group(child.pid, number)
                case LeaseExtension(until_ns=until_ns):
                    self._until_ns = until_ns
                case Sample(wanted=wanted):
                    self._send(self._sample(wanted))
                case Ping():
                    self._send(Alive())
        finally:
            for fd in fds:
                os.close(fd)
        return True

    def _spawn(self, spawn: Spawn, given: list[int]) -> None:
        if self._is_lease_over():
            self._send(Exited(spawn.id, None, "the agent's lease is over", lease_over=True))
            return
        streams: list[CapturedStream] = []
        actions: SpawnActions = [(os.POSIX_SPAWN_DUP2, self._null, 0)]
        writes: list[int] = []
        try:
            if spawn.bytes_max == 0:
                if len(given) != _FDS:  # the system drops those that a full table of descriptors does not take
                    raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # noqa: TRY301
                actions += [
                    (os.POSIX_SPAWN_DUP2, fd, target) for fd, target in zip(given, (1, 2, CONTROL_FD), strict=True)
                ]
            else:
                folder = CaptureFolder(spawn.folder)
                for target, name in ((1, "stdout"), (2, "stderr")):
                    read, write = os.pipe2(os.O_CLOEXEC)
                    writes.append(write)
                    os.set_blocking(read, False)
                    streams.append(CapturedStream(read, folder, name, spawn.bytes_max))
                    actions.append((os.POSIX_SPAWN_DUP2, write, target))
            pid = self._posix_spawn(spawn, actions)
        except (OSError, ValueError) as error:
            for stream in streams:
                stream.close()
            what = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            where = spawn.argv[0] if spawn.argv else "a command without words"
            if spawn.cwd is not None:
                where += f" in {spawn.cwd}"
            self._send(Exited(spawn.id, None, f"cannot start {where}: {what}", agent_fault=is_of_the_system(error)))
            return
        finally:
            for write in writes:
                os.close(write)
        child = Child(spawn, pid, streams)
        self._children[spawn.id] = self._pids[pid] = child
        self._niceness.apply_to_processes(pid)
        if streams:
            self._young.append(child)
        else:
            self._niceness.apply_to_session(pid)

    def _posix_spawn(self, spawn: Spawn, actions: SpawnActions) -> int:
        if not spawn.argv:
            raise ValueError("the first word names the program")
        environ = {**self._environ, **spawn.env, INSTANCE_VARIABLE: self._instance}
        program = spawn.argv[0]
        if "/" not in program:
            program = _find(program, environ.get("PATH", os.defpath), spawn.cwd)
        self._rlimits.begin()
        pid = 0
        self._marks.begin(spawn.id)
        try:
            if spawn.cwd is not None:
                os.chdir(spawn.cwd)  # nobody sees it elsewhere for a moment
            pid = os.posix_spawn(
                program,
                spawn.argv,
                environ,
                file_actions=actions,
                setsid=True,
                setsigmask=(),
                setsigdef=self._reset,
            )
            return pid
        finally:
            self._marks.end(spawn.id, pid)
            self._rlimits.end(pid)
            if spawn.cwd is not None:
                os.fchdir(self._home)

    def _reap(self) -> None:
        reaped = False
        while True:
            try:
                # Looked at first and reaped after: until then the group's id cannot belong to anybody else.
                info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return
            if info is None:
                break
            child = self._pids.pop(info.si_pid, None)
            self._niceness.forget(info.si_pid)
            if child is not None:
                kill_group(child.pid, signal.SIGKILL)
            _, status, usage = os.wait4(info.si_pid, 0)
            reaped = True
            if child is not None:
                self._end(child, os.waitstatus_to_exitcode(status), usage)
        if reaped:
            self._kill_orphans()

    def _end(self, child: Child, code: int, usage: resource.struct_rusage) -> None:
        """Run the cleanup of a program that has ended, if it has one; else its attempt is over."""
        if child.end is None and child.cleanup and (pid := self._start_cleanup(child)):
            child.end = (code, usage)
            child.pid = pid
            child.cleanup_until_s = time.monotonic() + _CLEANUP_MAX_S
            self._pids[pid] = self._cleaning[child.id] = child
        else:
            self._cleaning.pop(child.id, None)
            child.uncleaned = bool(child.cleanup) and (child.end is None or code != 0)
            self._finish(child, *(child.end or (code, usage)))

    def _start_cleanup(self, child: Child) -> int:
        """Start a cleanup, without the attempt's environment. Returns its process id, 0 if that is not possible."""
        actions: SpawnActions = [(os.POSIX_SPAWN_DUP2, self._null, target) for target in (0, 1, 2)]
        try:
            return self._posix_spawn(Spawn(child.id, child.cleanup, child.cleanup_env, None, "", 0), actions)
        except (OSError, ValueError):
            return 0

    def _check_cleanups(self) -> None:
        """Kill cleanups that take too long."""
        for child in self._cleaning.values():
            if time.monotonic() > child.cleanup_until_s:
                kill_group(child.pid, signal.SIGKILL)

    def _clean_up_all(self) -> None:
        """Run the cleanups of all programs, which were killed because the agent is gone."""
        left = {pid for child in self._children.values() if child.cleanup and (pid := self._start_cleanup(child))}
        until_s = time.monotonic() + _CLEANUP_MAX_S
        while left and time.monotonic() < until_s:
            left -= {pid for pid in left if os.waitpid(pid, os.WNOHANG)[0]}
            time.sleep(0.005)
        for pid in left:
            kill_group(pid, signal.SIGKILL)

    def _finish(self, child: Child, code: int, usage: resource.struct_rusage) -> None:
        del self._children[child.id]
        child.ended = True
        self._kill_orphans()  # before the end is told: nothing of the program goes on then
        cpu_ms = int((usage.ru_utime + usage.ru_stime) * 1000)
        # A program begins its life in the launcher's memory, so anything below the launcher's own peak says nothing.
        rss_max_kib = 0 if self._own_peak.covers(usage.ru_maxrss) else usage.ru_maxrss
        self._drain(child)
        if not child.streams:
            self._send(
                Exited(
                    child.id,
                    code,
                    "",
                    child.lease_over,
                    cpu_ms=cpu_ms,
                    rss_max_kib=rss_max_kib,
                    signalled=child.signalled,
                )
            )
            return
        out, err = child.streams
        sizes, truncated = (out.size, err.size), (out.truncated, err.truncated)
        tail = err.tail if code else b""
        self._send(
            Exited(
                child.id,
                code,
                "",
                child.lease_over,
                sizes,
                truncated,
                tail,
                cpu_ms,
                rss_max_kib,
                child.signalled,
                out.problem or err.problem,
                uncleaned=child.uncleaned,
            )
        )

    def _drain(self, child: Child) -> None:
        """Keep what a program that has ended wrote, to the end."""
        for stream in child.streams:
            for _ in range(_DRAIN_READS_MAX):
                if not stream.read():
                    break
            self._streams.pop(stream.fd, None)
            stream.close()

    def _sample(self, wanted: list[tuple[int, int]]) -> Sampled:
        """Return what programs use."""
        roots = {identity: [self._children[identity].pid] for identity, _ in wanted if identity in self._children}
        self._add_orphans(roots)
        used: list[tuple[int, int, int, int, list[int]]] = []
        for identity, limit_kib in wanted:
            if identity in roots:
                tree = read_tree(roots[identity])
                named = tree.pids if limit_kib and tree.held_kib >= limit_kib else []
                used.append((identity, tree.cpu_ms, tree.held_kib, tree.files_kib, named))
        return Sampled(used)

    def _add_orphans(self, roots: dict[int, list[int]]) -> None:
        """Add adopted processes to the programs that they belong to."""
        for pid in self._orphans():
            child = self._owner_of(pid)
            if child is not None and child.id in roots:
                roots[child.id].append(pid)

    def _orphans(self) -> list[int]:
        """Return the adopted processes: descendants of programs, whose own parents have ended."""
        return [pid for pid in self._child_list.pids() if pid not in self._pids]

    def _owner_of(self, pid: int) -> Child | None:
        """Return the program that an adopted process belongs to, None if that one has ended."""
        if self._marks.works:
            return self._children.get(-1 if (identity := self._marks.id_of(pid)) is None else identity)
        if child := self._pids.get(session_of(pid)):
            return child
        fence = fence_of(pid)
        return next((each for each in self._children.values() if fence and each.fence == fence), None)

    def _kill_orphans(self) -> None:
        """Kill adopted processes whose program has ended, and their descendants."""
        for pid in self._orphans():
            if self._owner_of(pid) is None:
                kill_tree(pid)

    def _kill_everything(self) -> None:
        deadline = time.monotonic() + _GONE_WAIT_S
        for pid in self._pids:
            kill_group(pid, signal.SIGKILL)
        while time.monotonic() < deadline:
            for pid in self._child_list.pids():
                kill_process(pid)
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                return
            time.sleep(0.002)

    def _send(self, message: FromLauncher) -> None:
        """Never blocks: while the agent is stopped, its lease must still be watched."""
        self._outgoing.append(_encode(message))
        if len(self._outgoing) == 1:
            self._flush()

    def _flush(self) -> None:
        try:
            while self._outgoing:
                self._control.send(self._outgoing[0])
                self._outgoing.popleft()
        except BlockingIOError:
            self._is_full = True
            self._epoll.modify(self._control.fileno(), select.EPOLLIN | select.EPOLLOUT)
            return
        except ConnectionError:  # the next receive finds the agent gone
            self._outgoing.clear()
        if self._is_full:
            self._is_full = False
            self._epoll.modify(self._control.fileno(), select.EPOLLIN)


def _find(program: str, path: str, cwd: str | None) -> str:
    for folder in path.split(os.pathsep):
        candidate = f"{folder or '.'}/{program}"
        if cwd is not None and not candidate.startswith("/"):
            if os.access(f"{cwd}/{candidate}", os.X_OK):
                return candidate
        elif os.access(candidate, os.X_OK) and not os.path.isdir(candidate):  # noqa: PTH112 - 4 times as fast
            return candidate
    raise ValueError("no such program on PATH")


def main() -> None:
    """Run as the process."""
    agent = os.getppid()
    adopt_orphans()
    hide_memory()
    wake_when_parent_dies()
    control = socket.socket(fileno=int(sys.argv[1]))
    os.set_inheritable(control.fileno(), False)  # noqa: FBT003 - positional only
    if os.getppid() == agent:  # else nobody wakes it any more
        limits = msgspec.json.decode(sys.argv[2], type=ProgramLimits)
        if not limits.new_privileges:
            refuse_new_privileges()
        LauncherProcess(control, limits).run()


if __name__ == "__main__":
    main()
