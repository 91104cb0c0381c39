"""What calls leave in their worker: the next call finds a clean one, and only its own output."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from raftflow.agent.executors import workers
from raftflow.agent.executors.workers import IdleWorkers, WorkerClient, WorkerLimits

FUNCTIONS = """
import _thread, asyncio, decimal, gc, json, locale, logging, os, resource, signal, socket, sys, threading, time
import builtins, random, subprocess, warnings
from raftflow import current

os.environ["OF_THE_MODULE"] = "1"

def look():
    print("innocent")
    print("innocent too", file=sys.stderr)
    assert [current().task, str(current().fence)] == [os.environ["RAFTFLOW_TASK"], os.environ["RAFTFLOW_FENCE"]]
    return os.getpid(), {
        "cwd": os.getcwd(),
        "arguments": sys.argv[1:],
        "environ": {k: v for k, v in os.environ.items() if not k.startswith("RAFTFLOW_")},
        "inherited": subprocess.check_output(
            "echo $LEFT $TZ $OF_THE_MODULE; pwd; ulimit -n; umask", shell=True, text=True),
        "stdin": os.readlink("/proc/self/fd/0"),
        "handlers": [str(signal.getsignal(n)) for n in range(1, 32)],
        "mask": [str(n) for n in signal.pthread_sigmask(signal.SIG_BLOCK, ())],
        "timers": [signal.getitimer(n) for n in range(3)],
        "limits": [resource.getrlimit(n) for n in range(16) if n != 10],  # the mark of its worker
        "priority": [os.getpriority(os.PRIO_PROCESS, 0), sorted(os.sched_getaffinity(0))],
        "ids": [os.getresuid(), os.getresgid()],
        "locale": locale.setlocale(locale.LC_ALL),
        "zone": [time.tzname, time.timezone],
        "path": sys.path,
        "filters": str(warnings.filters),
        "settings": [sys.getrecursionlimit(), sys.getswitchinterval(), gc.isenabled(), gc.get_threshold(),
                     str(sys.gettrace()), str(sys.getprofile()), str(socket.getdefaulttimeout())],
        "threads": [t.name for t in threading.enumerate() if "ThreadPool" not in t.name],
        "precision": decimal.getcontext().prec,
        "logging": [str(logging.root.handlers), logging.root.level, logging.root.manager.disable],
        "modules": [json.dumps([1]), sys.modules["json"] is json, len(vars(builtins)), str(print), str(time.sleep)],
        "streams": [sys.stdin.name, sys.stdout.name, sys.stdout.encoding, sys.stdout.line_buffering, sys.stderr.name],
        "loop": str(type(asyncio.get_event_loop_policy())),
        "has a loop": loop(),
    }

def loop():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return str(type(asyncio.get_event_loop())) + str(asyncio.get_event_loop().is_closed())

async def later(): return os.getpid()
def pid(): return os.getpid()
"""

TALK = "def talk():\n    while True: time.sleep(0.001); print('late', flush=True)\n"

PUT_BACK = {
    "directory": "os.chdir('/')",
    "removed directory": "import tempfile; d = tempfile.mkdtemp(); os.chdir(d); os.rmdir(d)",
    "environment": "os.environ['LEFT'] = 'x'; del os.environ['PATH']; os.environ['RAFTFLOW_TASK'] = 'y'",
    "empty environment": "os.environ.clear()",
    "module's variable": "del os.environ['OF_THE_MODULE']",
    "time zone": "os.environ['TZ'] = 'Asia/Tokyo'; time.tzset()",
    "stdout object": "import io; sys.stdout = sys.stderr = io.StringIO(); sys.stdin = None",
    "descriptors": "n = os.open('/dev/zero', os.O_RDWR); [os.dup2(n, i) for i in range(3)]",
    "closed descriptors": "[os.close(i) for i in range(3)]",
    "handlers": "signal.signal(signal.SIGTERM, print); signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
    "alarm": "signal.alarm(1)",
    "timers": "[signal.setitimer(i, 0.05) for i in range(3)]",
    "timer of faulthandler": "import faulthandler; faulthandler.dump_traceback_later(0.05, exit=True)",
    "mask": "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGCHLD])",
    "umask": "os.umask(0o777)",
    "locale": "locale.setlocale(locale.LC_ALL, 'C.UTF-8' if locale.setlocale(locale.LC_ALL) == 'C' else 'C')",
    "path": "sys.path.insert(0, '/nowhere'); sys.path.append('x')",
    "other path": "sys.path = ['/nowhere']",
    "soft limit": "resource.setrlimit(resource.RLIMIT_NOFILE, (32, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))",
    "affinity": "os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])",
    "settings": "sys.setrecursionlimit(100); gc.disable(); socket.setdefaulttimeout(1e-6); sys.setswitchinterval(1)",
    "trace": "sys.settrace(lambda *_: None); sys.setprofile(lambda *_: None)",
    "warnings": "warnings.simplefilter('error')",
    "logging": "logging.basicConfig(level=10, filename='/dev/full'); logging.disable(50)",
    "precision": "decimal.getcontext().prec = 3",
    "loop": "asyncio.set_event_loop_policy(asyncio.DefaultEventLoopPolicy()); asyncio.run(fns.later())",
    "closed loop": "n = asyncio.new_event_loop(); asyncio.set_event_loop(n); n.close()",
    "joined threads": "t = threading.Thread(target=print); t.start(); t.join()",
    "pool": "from concurrent.futures import *; fns.pool = ThreadPoolExecutor(); fns.pool.submit(pow, 1, 1).result()",
    "dropped pool": "from concurrent.futures import *; ThreadPoolExecutor().submit(pow, 1, 1).result()",
    "failure": "os.chdir('/'); raise ValueError",
}
"""Each with code that leaves something in the worker which the next call does not find."""

REPLACED = {
    "closed stdout": ("sys.stdout.close()", "other standard streams"),
    "detached stderr": ("sys.stderr.detach()", "other standard streams"),
    "encoding": ("sys.stdout.reconfigure(encoding='utf-16')", "other standard streams"),
    "builtin": ("builtins.print = len", "another content of module builtins"),
    "patched json": ("json.dumps = repr", "another content of module json"),
    "patched time": ("time.sleep = print", "another content of module time"),
    "patched os": ("os.fchdir = os.dup2 = os.lseek = None", "another content of module os"),
    "removed builtin": ("del builtins.len", "another content of module builtins"),
    "another environ": ("os.environ = {}", "another content of module os"),
    "another module": ("sys.modules['json'] = sys", "another module in place of json"),
    "hard limit": ("resource.setrlimit(resource.RLIMIT_NOFILE, (99, 99))", "other limits of resources"),
    "thread": (
        TALK + "threading.Thread(target=talk, name='talker').start()",
        "1 thread that went on (talker)",
    ),
    "silent thread": ("threading.Timer(0.3, print, ['late']).start()", "1 thread that went on"),
    "nameless thread": ("_thread.start_new_thread(time.sleep, (60,))", "1 thread that went on (without a name)"),
    "daemons": (
        "for i in range(7): threading.Thread(target=time.sleep, args=(60,), daemon=True, name=f'd{i}').start()",
        "7 threads that went on (d0, d1, d2, d3, d4, ...)",
    ),
    "busy pool": (
        "from concurrent.futures import *; fns.busy = ThreadPoolExecutor(); fns.busy.submit(time.sleep, 60)",
        "1 thread that went on",
    ),
    "process": ("import subprocess; subprocess.Popen(['sleep', '60'])", "processes that went on"),
    "files": ("fns.kept = [os.open('/dev/null', 0) for _ in range(100)]", "more than 64 open files"),
    "failed thread": ("_thread.start_new_thread(time.sleep, (60,)); raise ValueError", "1 thread that went on"),
}
"""Each with code whose effect stays as long as the worker, and what the attempt's log says."""

if os.geteuid() == 0:
    PUT_BACK["user"] = "os.setgroups([1]); os.setresuid(1, 1, 0)"
    PUT_BACK["nice"] = "os.nice(3)"

HEAD = "import _thread, fns\nfrom fns import *\n"


@pytest.fixture(autouse=True)
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lib").mkdir()
    (tmp_path / "lib" / "fns.py").write_text(FUNCTIONS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "lib"))


async def log_of(leader: Any, fence: int) -> list[str]:
    return [(await leader.log_of(fence, stream)).data.decode() for stream in ("stdout", "stderr")]


async def look(leader: Any) -> tuple[int, dict[str, Any]]:
    end = await leader.run(python="fns:look")
    assert end.outcome == "succeeded", end.error
    assert await log_of(leader, end.fence) == ["innocent\n", "innocent too\n"]
    pid, world = json.loads(bytes(end.result))
    return pid, world


async def test_the_next_call_finds_nothing_of_the_one_before(leader: Any, start_agent: Any) -> None:
    start_agent(resources={"cpu": 1})
    pid, clean = await look(leader)
    assert not clean["arguments"]
    table = [(name, code, "") for name, code in PUT_BACK.items()]
    table += [(name, code, words) for name, (code, words) in REPLACED.items()]
    for name, code, words in table:
        end = await leader.run(python="builtins:exec", args=[HEAD + code, {}])
        assert (end.outcome == "failed") == ("ValueError" in code), (name, end.error)
        said = (await log_of(leader, end.fence))[1]
        assert (f"this call left behind {words}" in said and "its worker was replaced" in said) == bool(words), (
            name,
            said,
        )
        await asyncio.sleep(0.1 if name in ("timers", "timer of faulthandler") else 0)
        other, world = await look(leader)
        assert world == clean, name
        assert (other != pid) == bool(words), name
        pid = other


async def test_threads_of_a_module_stay_and_what_they_say_between_calls_is_nobodys(
    leader: Any, start_agent: Any, tmp_path: Path
) -> None:
    (tmp_path / "lib" / "talks.py").write_text(
        "import os, threading\n"
        "go, done = threading.Event(), threading.Event()\n"
        "def talk():\n"
        "    while go.wait(): go.clear(); os.write(1, b'of the module'); done.set()\n"
        "threading.Thread(target=talk, daemon=True).start()\n"
        "def pid(): return os.getpid()\n"
        f"def wait():\n    open({str(tmp_path / 'fifo')!r}).read(); go.set(); done.wait(); done.clear()\n"
        "threading.Thread(target=wait, daemon=True).start()\n"
    )
    os.mkfifo(tmp_path / "fifo")
    start_agent(resources={"cpu": 1})
    first = await leader.run(python="talks:pid")
    await asyncio.to_thread((tmp_path / "fifo").write_text, "x")
    streams = list((tmp_path / "agent" / "workers").glob("*/stdout"))
    async with asyncio.timeout(10):
        while not streams[0].stat().st_size:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
    second = await leader.run(python="talks:pid")
    assert bytes(first.result) == bytes(second.result)
    assert await log_of(leader, second.fence) == ["", ""]


@pytest.mark.parametrize("stopped", [True, False], ids=["stopped", "gone"])
async def test_a_worker_that_dies_before_it_has_a_call_does_not_cost_the_attempt(
    leader: Any, start_agent: Any, *, stopped: bool
) -> None:
    start_agent(resources={"cpu": 1})
    first, _ = await look(leader)
    if stopped:
        os.kill(first, signal.SIGSTOP)
        (fence,) = await leader.assign({"python": "fns:look"})
        await leader.until(lambda: leader.polls[-1].running == [fence])
        os.kill(first, signal.SIGKILL)
    else:
        os.kill(first, signal.SIGKILL)
        (fence,) = await leader.assign({"python": "fns:look"})
    end = await leader.end_of(fence)
    assert end.outcome == "succeeded", end.error
    assert json.loads(bytes(end.result))[0] != first
    assert await log_of(leader, fence) == ["innocent\n", "innocent too\n"]


async def test_a_worker_that_dies_with_a_call_that_is_to_stop_is_not_started_again(
    leader: Any, start_agent: Any, gone: Any
) -> None:
    start_agent(resources={"cpu": 1})
    first, _ = await look(leader)
    os.kill(first, signal.SIGSTOP)
    (fence,) = await leader.assign({"python": "fns:look", "grace_ms": 100})
    await leader.until(lambda: leader.polls[-1].running == [fence])
    leader.stop.append(fence)
    await leader.notify()
    assert (await leader.end_of(fence)).outcome == "cancelled"
    await gone(first)


@pytest.mark.parametrize(
    "code", ["os.close(3)", "os.closerange(3, 99)", "fns.a, fns.b = socket.socketpair(); os.dup2(fns.a.fileno(), 3)"]
)
async def test_a_call_that_closes_its_workers_connection_fails_at_once(
    leader: Any, start_agent: Any, code: str
) -> None:
    start_agent(resources={"cpu": 1})
    end = await leader.run(python="builtins:exec", args=[HEAD + code, {}])
    assert (end.outcome, "worker died" in end.error) == ("failed", True), end.error
    await look(leader)


async def test_workers_that_wait_are_ended_after_a_while(leader: Any, start_agent: Any, gone: Any) -> None:
    start_agent(resources={"cpu": 1}, worker_idle_max_s=0.2)
    first = int(bytes((await leader.run(python="fns:pid")).result))
    await gone(first)
    assert int(bytes((await leader.run(python="fns:pid")).result)) != first


async def test_a_worker_that_keeps_much_memory_does_not_wait(
    leader: Any, start_agent: Any, gone: Any, tmp_path: Path
) -> None:
    """What it has freed, and files that it maps, are not counted."""
    start_agent(resources={"cpu": 1}, workers_idle_max_mib=100)
    first = int(bytes((await leader.run(python="fns:pid")).result))
    code = (
        "import mmap, tempfile\nfns.file = tempfile.TemporaryFile(dir=os.environ['HERE'])\n"
        "fns.file.truncate(128 << 20)\nfns.map = mmap.mmap(fns.file.fileno(), 0, prot=mmap.PROT_READ)\n"
        "sum(fns.map[::4096])\nb'x' * (128 << 20)"
    )
    await leader.run(python="builtins:exec", args=[HEAD + code, {}], env={"HERE": str(tmp_path)})
    assert int(bytes((await leader.run(python="fns:pid")).result)) == first
    await leader.run(python="builtins:exec", args=[HEAD + "fns.kept = b'x' * (128 << 20)", {}])
    await gone(first)
    shared = "import mmap\nfns.kept = mmap.mmap(-1, 128 << 20)\nfns.kept.write(bytes(128 << 20))"
    second = int(bytes((await leader.run(python="fns:pid")).result))
    await leader.run(python="builtins:exec", args=[HEAD + shared, {}])
    await gone(second)


def make_worker(kept_mib: int) -> WorkerClient:
    worker = object.__new__(workers.WorkerClient)
    worker.kept_kib, worker.path = kept_mib << 10, ()
    return worker


async def test_idle_workers_are_bounded_in_number_memory_and_time() -> None:
    ended: list[WorkerClient] = []
    limits = WorkerLimits(calls_max=1, rss_max_mib=1, idle_max_s=0.05, idle_max=3, idle_max_mib=100)
    idle = IdleWorkers(limits, ended.append)
    a, b, c, d, e, f = (make_worker(mib) for mib in (10, 10, 10, 10, 85, 101))
    for worker in (a, b, c, d):
        idle.put(worker)
    assert (len(idle), ended) == (3, [a])
    assert idle.take(()) is d
    idle.put(e)
    assert ended == [a, b]
    assert idle.take(()) is e
    idle.put(d)
    idle.put(f)
    assert ended == [a, b, f]
    idle.remove(c)
    idle.remove(c)
    assert len(idle) == 1
    async with asyncio.timeout(10):
        while len(idle):  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.01)
    assert ended == [a, b, f, d]
    assert idle.take(()) is None
