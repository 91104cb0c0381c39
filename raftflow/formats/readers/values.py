"""Checks of the JSON values inside a document: safe to encode, and which results they refer to."""

from __future__ import annotations

from typing import Any

from raftflow.domain.values.exact import LONE_SURROGATE, judge_finite, judge_integer

DEPTH_MAX = 64
"""Levels of tables and lists inside an argument."""

_FAULTS_MAX = 20

RESULT_KEY = "$result"
"""`{"$result": "fetch"}` in an argument stands for the result of the task `fetch`."""


def text_bytes(text: str) -> int:
    """Return the size of a string in UTF-8, or -1 if it cannot be encoded."""
    if text.isascii():
        return len(text)
    try:
        return len(text.encode())
    except UnicodeEncodeError:
        return -1


def check_value(value: Any, path: str) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Walk a value without recursion. Return its faults and its references to results, each with its path.

    A value without faults is exact (`domain/values/exact.py`): it can be encoded as JSON and read back unchanged.
    """
    faults: list[tuple[str, str]] = []
    refs: list[tuple[str, str]] = []
    stack: list[tuple[Any, str, int]] = [(value, path, 0)]
    while stack and len(faults) < _FAULTS_MAX:
        item, where, depth = stack.pop()
        kind = type(item)
        if kind is str:
            if text_bytes(item) < 0:
                faults.append((where, LONE_SURROGATE))
        elif kind is int:
            if (wrong := judge_integer(item)) is not None:
                faults.append((where, wrong))
        elif kind is float:
            if (wrong := judge_finite(item)) is not None:
                faults.append((where, wrong))
        elif item is None or kind is bool:
            continue
        elif kind is not dict and kind is not list:
            faults.append((where, f"a {kind.__name__} is not a JSON value"))
        elif depth >= DEPTH_MAX:
            faults.append((where, f"is nested deeper than {DEPTH_MAX} levels"))
        elif kind is list:
            if _all_plain(item):
                continue
            stack.extend((each, f"{where}[{place}]", depth + 1) for place, each in enumerate(item))
        elif RESULT_KEY in item:
            _add_reference(item, where, faults, refs)
        else:
            _push_table(item, where, depth, stack, faults)
    faults.reverse()
    refs.reverse()
    return faults, refs


def _all_plain(items: list[Any]) -> bool:
    """Tell whether a list holds only short whole numbers, ASCII strings, booleans and nulls. Most lists do."""
    for item in items:
        kind = type(item)
        if kind is str:
            if not item.isascii():
                return False
        elif kind is int:
            if not -(2**63) <= item < 2**63:
                return False
        elif item is not None and kind is not bool:
            return False
    return True


def _add_reference(
    item: dict[Any, Any], where: str, faults: list[tuple[str, str]], refs: list[tuple[str, str]]
) -> None:
    task_id = item[RESULT_KEY]
    if len(item) != 1 or not isinstance(task_id, str) or text_bytes(task_id) < 0:
        faults.append((where, f'a reference is {{"{RESULT_KEY}": "id of a task"}} and nothing else'))
    else:
        refs.append((where, task_id))


def _push_table(
    item: dict[Any, Any], where: str, depth: int, stack: list[tuple[Any, str, int]], faults: list[tuple[str, str]]
) -> None:
    for key, each in item.items():
        if not isinstance(key, str):
            faults.append((where, f"the key {ascii(key)[:40]} is not a string"))
        elif text_bytes(key) < 0:
            faults.append((where, f"the key {ascii(key)[:40]} {LONE_SURROGATE}"))
        else:
            stack.append((each, f"{where}.{key[:80]}", depth + 1))
