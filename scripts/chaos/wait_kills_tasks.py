"""Tasks for `wait_kills`: waits, approvals, effects, spending and rates. `kill_lines.py` says what they write.

The result of each task is what it was told, by the keys of its lines.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from typing import Any

from kill_lines import write

import raftflow

END = "end"
"""The payload of the last signal of a name."""
NOTHING = "nothing"
"""What a wait for a signal has as its default."""
NOBODY = "nobody"
"""Details of an approval that nobody is to decide."""
LIMIT = "shared"
MODES = ("verify", "key", "blind")
"""How the attempts of an effect find out what became of an earlier call."""
TIP_S = 0.05
TIMEOUTS_S = (None, 0.4, 0.6, None, 0.5)
"""Of approvals, in turn."""


class Told:
    """What one task was told, in its file and in its result."""

    def __init__(self, path: str) -> None:
        self._path = path
        self.found: dict[str, str] = {}

    def __call__(self, key: object, value: object) -> None:
        """Note something. It must not have blanks."""
        write(self._path, "knows", key, value)
        self.found[str(key)] = str(value)


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def listen(ctx: raftflow.Context, path: str, name: str, timeout: float | None) -> dict[str, str]:
    """Take signals of a name until the last one has come. With a timeout some waits end without a signal."""
    told, got = Told(path), None
    while got != END:
        got = ctx.wait(name, timeout=timeout, **({} if timeout is None else {"default": NOTHING}))
        told(len(told.found), got)
    return told.found


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def ask(ctx: raftflow.Context, path: str, count: int) -> dict[str, str]:
    """Ask people again and again. Every fifth question has a timeout, and nobody decides it."""
    told = Told(path)
    for number in range(count):
        timeout = TIMEOUTS_S[number % len(TIMEOUTS_S)]
        details = NOBODY if number % len(TIMEOUTS_S) == 1 else number
        answer = ctx.approval("go on?", details, timeout=timeout, on_timeout=None if timeout is None else "deny")
        told(number, f"{answer}/{answer.comment}")
    return told.found


def _request(url: str, **fields: object) -> Any:
    """Ask the service outside. It knows who calls, so that it can be killed meanwhile."""
    with urllib.request.urlopen(url, data=json.dumps(fields).encode(), timeout=20) as answer:
        return json.loads(answer.read())


def call(url: str, effect: str, mode: str, *, idempotency_key: str, fence: int) -> str:
    """Do an effect. Returns the receipt."""
    try:
        told: str = _request(
            f"{url}/call", effect=effect, mode=mode, key=idempotency_key, fence=fence, pid=os.getpid()
        )
    except urllib.error.HTTPError as error:
        if error.code == 503:
            raise raftflow.NotDone("the service did nothing") from None
        raise
    return told


def was_called(url: str, _effect: str, _mode: str, *, idempotency_key: str, fence: int) -> object:
    """Ask the service, which takes no call of an earlier attempt from now on."""
    found = _request(f"{url}/find", key=idempotency_key, fence=fence)
    if found == "unknown":
        return raftflow.UNKNOWN
    return raftflow.NOT_DONE if found is None else raftflow.done(found)


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def act(ctx: raftflow.Context, path: str, url: str, mode: str, count: int) -> dict[str, str]:
    """Have effects, one after the other."""
    told = Told(path)
    for number in range(count):
        name = f"{ctx.workflow}/{ctx.task}/{number}"
        verify = was_called if mode == "verify" else None
        try:
            receipt = ctx.effect(f"act-{number}", call, url, name, mode, verify=verify, idempotent=mode == "key")
        except raftflow.EffectFailed:
            receipt = "failed"
        told(number, receipt)
    return told.found


def use(ctx: raftflow.Context, path: str, number: int) -> str:
    """Do one step that spends. Returns how much, in calls and millionths of a dollar."""
    write(path, "ran", number, ctx.fence)
    millionths = 1 + number * 7919 % 99_991
    ctx.spend(calls=1, usd=f"0.{millionths:06}")
    return f"1/{millionths}"


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def spend(ctx: raftflow.Context, path: str, taken: str, steps: int) -> dict[str, str]:
    """Take of the rate limit, and spend in steps."""
    told = Told(path)
    for number in range(steps):
        units = 1 + number % 2
        ctx.rate(LIMIT, units)
        write(taken, f"{ctx.task}-{number}", units, time.time())  # a later attempt writes it again
        told(number, ctx.step("use", use, ctx, path, number))
    return told.found


@raftflow.task(retries=1000, retry_delay=0, resources={"cpu": 0.5})
def tip(ctx: raftflow.Context, path: str, count: int) -> dict[str, str]:
    """Spend, and never do a step."""
    told = Told(path)
    for number in range(count):
        time.sleep(TIP_S)
        ctx.spend(calls=1)
        told(number, "1/0")
    return told.found
