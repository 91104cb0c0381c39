# ruff: noqa: E501 - a table, a line for each
"""Tasks that try to take down, block, impersonate or outlive their agent: a table.

Each is a program or a function; most of them could be written by mistake. `state` is how the task ends ("any" where it
depends on the machine or the user), `words` is what its last error says. They run as whoever runs the tests, so none
of them sends a signal to anything but itself, its launcher and its agent, and everything is bounded.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Hostile(NamedTuple):
    """One task."""

    name: str
    work: dict[str, Any]
    state: str
    words: str = ""


def sh(name: str, script: str, state: str = "succeeded", words: str = "") -> Hostile:
    """Return a task of a shell script; `$d` is the folder of the attempt, `$w` the agent's work directory."""
    head = 'd="$(dirname "$RAFTFLOW_RESULT")"; w="$d/../.."; '
    return Hostile(name, {"command": ["sh", "-c", head + script]}, state, words)


def py(name: str, code: str, state: str = "succeeded", words: str = "") -> Hostile:
    """Return a task of a function, called in a worker."""
    head = "import os, sys, signal, threading, time, socket, struct\nfence = int(os.environ['RAFTFLOW_FENCE'])\n"
    head += "first = os.environ['RAFTFLOW_ATTEMPT'] == '1'\n"
    return Hostile(f"worker {name}", {"python": "builtins:exec", "args": [head + code, {}]}, state, words)


def program(name: str, code: str, state: str = "succeeded", words: str = "") -> Hostile:
    """Return a task of a program in python."""
    head = "import os, sys, signal, time, socket, struct, subprocess, resource, ctypes\n"
    head += "first = os.environ['RAFTFLOW_ATTEMPT'] == '1'\nd = os.path.dirname(os.environ['RAFTFLOW_RESULT'])\n"
    return Hostile(name, {"command": ["python3", "-S", "-c", head + code]}, state, words)


FILES = (
    sh("result is a FIFO", 'mkfifo "$RAFTFLOW_RESULT"', "failed", "a FIFO in place"),
    sh("result is a directory", 'mkdir "$RAFTFLOW_RESULT"', "failed", "a directory in place"),
    sh("result is the agent's memory", 'ln -s /proc/self/mem "$RAFTFLOW_RESULT"', "failed", "a symbolic link"),
    sh("result is an endless device", 'ln -s /dev/zero "$RAFTFLOW_RESULT"', "failed", "a symbolic link"),
    sh("result is a terminal", 'ln -s /dev/tty "$RAFTFLOW_RESULT"', "failed", "a symbolic link"),
    sh("result is a loop", 'ln -s "$RAFTFLOW_RESULT" "$RAFTFLOW_RESULT"', "failed", "a symbolic link"),
    sh("result is a link to the secret", 'ln -s "$w/../secret" "$RAFTFLOW_RESULT"', "failed", "a symbolic link"),
    sh("result is a hard link", 'ln "$RAFTFLOW_INPUTS" "$RAFTFLOW_RESULT"', "failed", "names"),
    sh("result is the agent's lock", 'ln "$w/lock" "$RAFTFLOW_RESULT"', "failed", "names"),
    sh("result is sparse", 'truncate -s 1T "$RAFTFLOW_RESULT"', "any"),
    sh("result without rights", 'echo 1 >"$RAFTFLOW_RESULT"; chmod 0 "$RAFTFLOW_RESULT"', "any"),
    sh("result is noise", 'head -c 9999 /dev/urandom >"$RAFTFLOW_RESULT"', "failed", "not valid JSON"),
    program(
        "result is a socket", "os.chdir(d); socket.socket(socket.AF_UNIX).bind('result.json')", "failed", "a socket"
    ),
    sh("folder removed", 'rm -r "$d"', "failed", "removed or renamed"),
    sh("folder renamed", 'mv "$d" "$d.away"', "failed", "removed or renamed"),
    sh("folder is a link", 'mv "$d" "$d.away"; ln -s "$d.away" "$d"', "failed", "a symbolic link"),
    sh("folder without rights", 'chmod 0 "$d"', "any"),
    sh("folder is full", 'cd "$d"; i=0; while [ $i -lt 2000 ]; do : >"f$i"; i=$((i+1)); done'),
    program("folder is deep", "os.chdir(d)\nfor _ in range(1100): os.mkdir('d'); os.chdir('d')"),
    sh("inputs removed", 'rm "$RAFTFLOW_INPUTS"'),
    sh("inputs are a FIFO", 'rm "$RAFTFLOW_INPUTS"; mkfifo "$RAFTFLOW_INPUTS"'),
    sh("progress is a FIFO", 'mkfifo "$RAFTFLOW_PROGRESS"; sleep 1.5'),
    sh("progress is a device", 'ln -s /dev/zero "$RAFTFLOW_PROGRESS"; sleep 1.5'),
    sh("progress is a directory", 'mkdir "$RAFTFLOW_PROGRESS"; chmod 0 "$RAFTFLOW_PROGRESS"; sleep 1.2'),
    sh(
        "captures of attempts to come",
        'for i in 1 2 3 4 5; do a="$w/attempts/$((RAFTFLOW_FENCE + i))"; mkdir "$a"; mkfifo "$a/stdout"; done',
        "any",
    ),
    sh(
        "own captures replaced",
        'echo 1; sleep 0.3; a="$w/attempts/$RAFTFLOW_FENCE"; rm -r "$a"; mkfifo "$a"; echo 2; echo 3 >&2',
        "any",
    ),
    sh(
        "results of attempts to come",
        'for i in 1 2 3; do echo 666 >"$w/exchange/$((RAFTFLOW_FENCE + i)).result.json"; done',
    ),
    sh("exchange removed", 'until rm -rf "$w/exchange"; do :; done', "failed", "removed or renamed"),
    sh("exchange is a link", 'mv "$w/exchange" "$w/gone"; ln -s / "$w/exchange"', "failed"),
    sh("attempts removed", 'rm -rf "$w/attempts"; echo 1', "any"),
    sh("attempts is a file", 'rm -rf "$w/attempts"; : >"$w/attempts"', "any"),
    sh("workers and trash removed", 'rm -rf "$w/workers" "$w/trash" || :'),
    sh("work directory removed", 'cd /; rm -rf "$(realpath "$w")"', "failed"),
    sh("work directory renamed", 'a="$(realpath "$w")"; mv "$a" "$a.away"', "failed"),
)

SIGNALS = (
    sh("stops itself", "kill -STOP $$", "failed", "timeout"),
    sh("stops its launcher", '[ "$RAFTFLOW_ATTEMPT" != 1 ] || kill -STOP $PPID; sleep 0.5', "any"),
    sh("kills its launcher", '[ "$RAFTFLOW_ATTEMPT" != 1 ] || kill -KILL $PPID; exit 0', "any"),
    sh(
        "all signals for its launcher",
        "for n in 1 2 3 4 5 6 7 8 10 11 12 13 14 15 16 20 21 22 24 31 34 64; do kill -$n $PPID; done",
    ),
    program(
        "signals for its agent",
        "agent = int(open(f'/proc/{os.getppid()}/stat').read().rpartition(')')[2].split()[1])\n"
        # Another task may have killed the launcher: then this is a child of the agent, and that one of the test.
        "if b'\\0agent\\0run\\0' in open(f'/proc/{agent}/cmdline', 'rb').read():\n"
        "    for n in (10, 12, 14, 16, 26, 27, 29, 30, 34, 64): os.kill(agent, n)",
    ),
    sh("ends its group", "kill -TERM 0; sleep 9", "failed"),
    sh("ignores every signal", "trap '' HUP INT QUIT TERM USR1 USR2 ALRM; sleep 60; sleep 60", "failed", "timeout"),
    sh(
        "kills idle workers",
        'for p in $(cat "/proc/$PPID/task/$PPID/children"); do '
        'grep -qs raftflow.agent.worke[r] "/proc/$p/cmdline" && kill -9 $p; done; true',
        "any",
    ),
    program("asks for death signals", "ctypes.CDLL(None).prctl(1, 9, 0, 0, 0); time.sleep(0.2)"),
    program(
        "traces and kills its launcher",
        "l = os.getppid()\nif first and ctypes.CDLL(None).ptrace(0x4206, l, 0, 0) == 0: os.kill(l, 9); time.sleep(60)",
        "any",
    ),
    program(
        "traces its launcher",
        "libc = ctypes.CDLL(None)\nif first and libc.ptrace(16, os.getppid(), 0, 0) == 0: time.sleep(60)",
        "any",
    ),
)

OUTPUT = (
    sh("endless output", "yes", "failed", "timeout"),
    sh("endless output without a line", "cat /dev/zero >&2", "failed", "timeout"),
    sh("binary output", "head -c 3000000 /dev/urandom; head -c 99 /dev/urandom >&2; exit 3", "failed", "exit code 3"),
    sh("closes its output", "exec >&- 2>&- <&-; sleep 0.2"),
    sh("output held by a daemon", "setsid sleep 60 & echo 1"),
    sh("output held by a hidden daemon", "(setsid env -i sleep 60 &); echo 1"),
    program(
        "writes into the launcher's files",
        "import glob\nfor p in glob.glob(f'/proc/{os.getppid()}/fd/*'):\n"
        "    try: os.write(os.open(p, os.O_WRONLY | os.O_NONBLOCK), b'x' * 100)\n    except OSError: pass",
    ),
    program(
        "reads the launcher's pipes",
        "import glob\nfor p in glob.glob(f'/proc/{os.getppid()}/fd/*'):\n"
        "    try: os.read(os.open(p, os.O_RDONLY | os.O_NONBLOCK), 100)\n    except OSError: pass",
    ),
)

PROCESSES = (
    sh("a daemon", "setsid sh -c 'trap \"\" TERM HUP; sleep 60; sleep 60' &"),
    sh("a daemon without environment", "(env -i setsid sh -c 'sleep 60; sleep 60' &)"),
    sh("a daemon with another's fence", "(RAFTFLOW_FENCE=1 setsid sleep 60 &)"),
    sh("a daemon with a forged mark", "(prlimit --locks=7:7 setsid env -i sleep 60 &)"),
    sh("a stopped daemon", "(setsid env -i sh -c 'kill -STOP $$; sleep 60' &); sleep 0.2"),
    program(
        "a daemon that adopts",
        "if not os.fork():\n    os.setsid(); ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"
        "    if not os.fork(): os.setsid(); time.sleep(60)\n    time.sleep(60)",
    ),
    program("many processes", "for _ in range(50):\n    if not os.fork(): time.sleep(60)"),
    program(
        "a chain of processes",
        "for _ in range(50):\n    if os.fork(): break\n    os.setsid()\nelse: time.sleep(60)",
    ),
    program(
        "no more processes", "resource.setrlimit(resource.RLIMIT_NPROC, (0, 0))\ntry: os.fork()\nexcept OSError: pass"
    ),
    program("zombies", "for _ in range(100):\n    if not os.fork(): os._exit(0)\ntime.sleep(0.2)"),
    sh("no descriptors", "ulimit -n 3; cat /etc/passwd", "failed"),
    sh("no file size", 'ulimit -f 0; echo 1 >"$RAFTFLOW_RESULT"', "failed"),
    sh("no CPU time", "ulimit -t 1; while :; do :; done", "failed"),
    sh("lowest priority", "renice -n 19 -p $$ >/dev/null; exit 0"),
    sh("works in a removed directory", 'mkdir "$d/x"; cd "$d/x"; rm -r "$d/x"; echo 1'),
    Hostile("no program", {"command": ["/no/such/program"]}, "failed", "cannot start"),
    Hostile("a directory as program", {"command": ["/"]}, "failed", "cannot start"),
    program(
        "no memory",
        "resource.setrlimit(resource.RLIMIT_AS, (1 << 28,) * 2); b'x' * (1 << 30)",
        "failed",
        "MemoryError",
    ),
)

WORKERS = (
    py("exits", "os._exit(0)", "failed", "worker died"),
    py("aborts", "os.abort()", "failed", "worker died"),
    py("kills itself", "os.kill(os.getpid(), 9)", "failed", "worker died"),
    py("stops itself", "os.kill(os.getpid(), signal.SIGSTOP)", "failed", "timeout"),
    py("kills its group", "os.killpg(0, 15)", "failed", "worker died"),
    py("kills its launcher", "first and os.kill(os.getppid(), 9)", "any"),
    py("stops its launcher", "first and os.kill(os.getppid(), signal.SIGSTOP); time.sleep(0.3)", "any"),
    py("closes everything", "os.closerange(0, 256)", "failed"),
    py("puts the null device over its socket", "os.dup2(os.open('/dev/null', 2), 3)", "failed"),
    py("speaks noise", "os.write(3, os.urandom(3) + b'\\x7f' + os.urandom(999)); time.sleep(9)", "failed", "trusted"),
    py("promises a huge answer", "os.write(3, struct.pack('<I', 1 << 31)); time.sleep(9)", "failed", "trusted"),
    py("answers half", "os.write(3, struct.pack('<I', 9999))", "failed", "timeout"),
    py("floods its socket", "while True: os.write(3, b'\\xff' * 65536)", "failed"),
    py(
        "answers for another",
        "from raftflow.agent.launcher.messages import Returned\nimport msgspec\n"
        "data = msgspec.msgpack.encode(Returned(fence + 1, True, b'666'))\n"
        "os.write(3, struct.pack('<I', len(data)) + data); time.sleep(9)",
        "failed",
        "answered for attempt",
    ),
    py(
        "answers twice",
        "from raftflow.agent.launcher.messages import Returned\nimport msgspec\n"
        "data = msgspec.msgpack.encode(Returned(fence, True, b'1'))\n"
        "os.write(3, (struct.pack('<I', len(data)) + data) * 2)",
        "any",
    ),
    py(
        "answers with lies",
        "from raftflow.agent.launcher.messages import Returned\nimport msgspec\n"
        "data = msgspec.msgpack.encode(Returned(fence, True, b'1', '', (1 << 62, -5), (False, False), False, -1, 1, -1))\n"
        "os.write(3, struct.pack('<I', len(data)) + data)",
        "any",
    ),
    py(
        "a forked process answers for it",
        "from raftflow.agent.launcher.messages import Returned\nimport msgspec\n"
        "data = msgspec.msgpack.encode(Returned(fence, True, b'666'))\n"
        "if not os.fork(): os.write(3, struct.pack('<I', len(data)) + data); os._exit(0)\nos.wait()",
    ),
    py("a forked process takes calls", "if not os.fork(): os.read(3, 99); os._exit(0)\nos.wait()"),
    py("many processes", "for _ in range(40):\n    if not os.fork(): time.sleep(60)"),
    py("a forked process returns", "os.fork()"),
    py(
        "a daemon without environment",
        "if not os.fork():\n    os.setsid()\n    if not os.fork():\n"
        "        os.execve('/bin/sleep', ['sleep', '60'], {})\n    os._exit(0)",
    ),
    py("a thread that goes on", "threading.Thread(target=time.sleep, args=(3,), daemon=True).start()"),
    py("a thread that exits", "t = threading.Thread(target=sys.exit); t.start(); t.join()"),
    py(
        "bad hooks",
        "def bad(*a): raise ValueError\nsys.excepthook = threading.excepthook = sys.unraisablehook = bad\n1/0",
        "failed",
    ),
    py("work at exit", "import atexit; atexit.register(time.sleep, 60); sys.exit(3)", "failed"),
    py(
        "breaks json",
        "import json, orjson; json.dumps = json.loads = orjson.dumps = orjson.loads = None; 1/0",
        "failed",
    ),
    py("breaks os", "os.write = os.fstat = os.open = os.getpid = None", "failed"),
    py("breaks builtins", "import builtins; builtins.len = builtins.open = builtins.str = None", "succeeded"),
    py("recurses", "def f(): f()\nf()", "failed", "RecursionError"),
    py("C recursion", "x = []\nfor _ in range(999999): x = [x]\nrepr(x)", "failed"),
    py("an error without a text", "class E(BaseException):\n    def __str__(self): raise E\nraise E", "failed"),
    py("endless output", "while True: print('x' * 99999)", "failed", "timeout"),
    py("endless output without a line", "while True: os.write(2, b'x' * 99999)", "failed", "timeout"),
    py("closes its output", "sys.stdout.close(); sys.stderr.close(); 1/0", "failed"),
    py("no output", "sys.stdout = sys.stderr = None; 1/0", "failed"),
    py(
        "no descriptors",
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3)); print(1); 1/0",
        "failed",
    ),
    py(
        "no memory",
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (1 << 28,) * 2); b'x' * (1 << 30)",
        "failed",
    ),
    py("an alarm", "signal.setitimer(signal.ITIMER_REAL, 0.2); time.sleep(9)", "failed", "worker died"),
    py(
        "its folder removed",
        "import shutil; shutil.rmtree(os.path.dirname(os.environ['RAFTFLOW_PROGRESS'])); print(1)",
    ),
    py("progress is a folder", "os.mkdir(os.environ['RAFTFLOW_PROGRESS'])"),
    py("progress is a FIFO", "os.mkfifo(os.environ['RAFTFLOW_PROGRESS']); time.sleep(1.2)"),
    py("no environment", "os.environ.clear(); 1/0", "failed"),
    Hostile("worker an endless result", {"python": "builtins:bytes", "args": [1 << 20]}, "failed"),
)

_ROUGH = {
    "captures of attempts to come",
    "exchange removed",
    "exchange is a link",
    "attempts removed",
    "attempts is a file",
    "workers and trash removed",
    "work directory removed",
    "work directory renamed",
    "stops its launcher",
    "kills its launcher",
    "kills idle workers",
    "traces its launcher",
    "worker kills its launcher",
    "worker stops its launcher",
}
_ALL = (*FILES, *SIGNALS, *OUTPUT, *PROCESSES, *WORKERS)
QUIET = tuple(task for task in _ALL if task.name not in _ROUGH)
ROUGH = tuple(task for task in _ALL if task.name in _ROUGH)
"""What may cost others that run on the same agent an attempt."""
