"""Faults have the line of the document on which they are."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raftflow.formats.readers.lines import find_lines

TOML = '''# a comment with [brackets] and = signs
name = "w"
"odd.key" = 1

[defaults]
env = { A = "x", "B.C" = """
two lines""", D = 1 }
[[tasks]]
id = "a"
command = [
  "echo",  # ]
  "b]",
  'c',
]

[[tasks]]
id = 'b'
needs = ["a",
  "z"]
[tasks.resources]
cpu = 2
constraints.labels.zone = "x"
[[tasks.more]]
x = 1
[[tasks.more]]
x = [ { y = 1 },
  { y = 2, "z" = 3 } ]
'''
TOML_LINES = {
    "name": 2,
    "odd.key": 3,
    "defaults": 5,
    "defaults.env": 6,
    "defaults.env.B.C": 6,
    "defaults.env.D": 7,
    "tasks[0]": 8,
    "tasks[0].id": 9,
    "tasks[0].command": 10,
    "tasks[0].command[0]": 11,
    "tasks[0].command[2]": 13,
    "tasks[1]": 16,
    "tasks[1].needs[1]": 19,
    "tasks[1].resources.cpu": 21,
    "tasks[1].resources.constraints.labels.zone": 22,
    "tasks[1].more[1].x": 26,
    "tasks[1].more[1].x[1].z": 27,
    "tasks[1].nothing.like[3].it": 16,
}
YAML = """name: w
defaults: &d
  env: {A: x, B: y}
tasks:
- id: a
  command: [echo,
    b]
  text: |
    several
    lines
- id: b
  needs:
  - a
  - z
  resources: {cpu: 2,
    memory: x}
  other: *d
"""
YAML_LINES = {
    "name": 1,
    "defaults.env.B": 3,
    "tasks": 4,
    "tasks[0]": 5,
    "tasks[0].command": 6,
    "tasks[0].command[1]": 7,
    "tasks[1].id": 11,
    "tasks[1].needs[1]": 14,
    "tasks[1].resources.memory": 16,
    "tasks[1].other.env.A": 17,
}
JSON = """{
  "name": "w{[,\\"",
  "tasks": [
    {"id": "a", "command": ["x",
      "y"]},
    {
      "id": "b", "args": [[1, 2], {"k\\u0065y":
        -1.5e3}], "needs": []
    }
  ]
}"""
JSON_LINES = {
    "name": 2,
    "tasks": 3,
    "tasks[0]": 4,
    "tasks[0].command[1]": 5,
    "tasks[1]": 6,
    "tasks[1].args[0][1]": 7,
    "tasks[1].args[1].key": 7,
    "tasks[1].needs": 8,
}


@pytest.mark.parametrize(
    ("name", "text", "lines"),
    [("toml", TOML, TOML_LINES), ("yaml", YAML, YAML_LINES), ("json", JSON, JSON_LINES)],
    ids=["toml", "yaml", "json"],
)
def test_lines(name: str, text: str, lines: dict[str, int]) -> None:
    if name == "toml":
        tomllib.loads(text)
    assert find_lines(text, name, lines) == lines
    # One by one as well: nothing depends on what else is looked for.
    assert {path: find_lines(text, name, [path]).get(path) for path in lines} == lines


def test_what_is_not_there_has_no_line() -> None:
    assert find_lines('{"a": 1}', "json", ["b", "", "b[0].c"]) == {}
    assert find_lines("", "toml", ["a"]) == {}
    assert find_lines("a: [", "yaml", ["a"]) == {"a": 1}
    assert find_lines("]]}}{{[[,,::", "json", ["a"]) == {}
    assert find_lines("]]}}{{[[=\n=,", "toml", ["a"]) == {}


_LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5))
_VALUES = st.recursive(
    _LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text("abc", min_size=1), inner, max_size=3)
    ),
    max_leaves=12,
)


def _walk(value: Any, path: str = "") -> dict[str, Any]:
    found = {path: value} if path else {}
    if isinstance(value, dict):
        for key, each in value.items():
            found |= _walk(each, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for place, each in enumerate(value):
            found |= _walk(each, f"{path}[{place}]")
    return found


@settings(derandomize=True, deadline=None, max_examples=100)
@given(st.dictionaries(st.text("abc", min_size=1), _VALUES, max_size=4))
def test_every_value_of_a_json_document_is_found(document: dict[str, Any]) -> None:
    """Each value on its own line, as `json.dumps(indent=0)` writes it: the lines are where the keys are."""
    text = json.dumps(document, indent=0)
    paths = _walk(document)
    found = find_lines(text, "json", paths)
    assert set(found) == set(paths)
    lines = text.splitlines()
    for path, line in found.items():
        key = path.rpartition(".")[2]
        if not path.endswith("]"):
            assert lines[line - 1].startswith(json.dumps(key) + ":")
