"""The published schema and the reader of documents say the same, but for what a schema cannot say."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import raftflow
from raftflow.domain import limits
from raftflow.formats.documents import TOP_KEYS, DocumentError, normalize
from raftflow.formats.files import load, loads
from raftflow.formats.readers.fields import OWN_KEYS, READERS
from raftflow.formats.schema import BEYOND, SCHEMA_ID, workflow_schema, workflow_schema_file

VALIDATOR = jsonschema_rs.validator_for(workflow_schema_file())
EXAMPLES = Path(raftflow.__file__).parent / "formats" / "examples"


def faults_of(document: Any) -> list[str]:
    try:
        normalize(document)
    except DocumentError as error:
        return [f"{problem.path}: {problem.message}" for problem in error.problems]
    return []


def task(**keys: Any) -> dict[str, Any]:
    run = {} if {"command", "python"} & keys.keys() else {"command": ["true"]}
    return {"name": "w", "tasks": [{"id": "other", "command": ["true"]}, {"id": "t", **run, **keys}]}


def waits(wait: Any, **keys: Any) -> dict[str, Any]:
    return {"name": "w", "tasks": [{"id": "t", "wait": wait, **keys}]}


def call(**keys: Any) -> dict[str, Any]:
    return task(python="a.b:c.d", **keys)


GOOD: list[dict[str, Any]] = [
    task(),
    {**task(), "$schema": "https://example.org/x.json"},
    {**task(), "priority": 0, "on_failure": "continue", "max_parallel": 1},
    {**task(), "priority": 100, "max_parallel": None},
    {**task(), "name": "_a.b:c@d+e-f"},
    {**task(), "name": "x" * limits.NAME_CHARS_MAX},
    {"name": "w", "defaults": {"command": ["x"]}, "tasks": [{"id": "t"}, {"id": "u", "python": "a:b", "args": [1]}]},
    {"name": "w", "defaults": {"python": "a:b", "args": [1]}, "tasks": [{"id": "t"}, {"id": "u", "command": ["x"]}]},
    task(needs=[]),
    task(needs=["other"]),
    task(command=["a", "", "\n", "é"]),
    task(command=["x"] * limits.COMMAND_ARGS_MAX),
    call(),
    call(args=[]),
    call(args=[1, None, {"a": [True]}], kwargs={"x": 1.5}),
    call(args=[{"$result": "other"}], needs=["other"]),
    call(kwargs={}),
    task(args=[]),
    task(kwargs={}),
    task(env={}),
    task(env={"A": "", "b c": "x", "N": 3, "M": -(2**63) + 1}),
    task(cwd="/"),
    task(resources={}),
    task(resources={"cpu": 0, "memory": 0, "gpu": 0.5}),
    task(resources={"cpu": ".5", "memory": "512MiB"}),
    task(resources={"cpu": " 5. ", "memory": " 1.5 gb "}),
    *[task(resources={"memory": size}) for size in ("1", "8kb", "1K", "2Ki", "3MIB", "4T", "10b", 5, 0.25)],
    task(resources={"cpu": limits.RESOURCE_UNITS_MAX // 1000}),
    task(retries=0),
    task(retries=limits.RETRIES_MAX),
    *[task(timeout=value) for value in ("40s", "1h30m", "250ms", " 2d ", "1.5s", "1h 30m", 1, 0.25)],
    *[task(grace=value) for value in (0, "0s", limits.DURATION_MS_MAX // 1000)],
    task(retry_delay="1s", retry_delay_max="2s"),
    task(expected="3s"),
    task(constraints={}),
    task(constraints={"labels": {"zone": "", "b": "x" * limits.LABEL_CHARS_MAX}, "exclusive": True}),
    task(kind="align"),
    task(cache=True),
    task(cache=False),
    task(cache={"key": "k-${other.digest}"}, needs=["other"]),
    task(memory_max="2GiB", resources={"memory": 5}),
    task(backup=True),
    task(rates={"llm": 2}),
    waits({"signal": "go"}),
    waits({"signal": "go go", "timeout": "3d", "on_timeout": None}, needs=[]),
    waits({"approval": "Publish?"}),
    waits({"approval": "P", "details": {"a": [1]}, "choices": ["a", "b"], "timeout": 60, "on_timeout": "b"}),
    {**waits({"signal": "go"}), "defaults": {"retries": 3, "command": ["x"], "timeout": "3s", "cache": True}},
    {**task(), "budgets": {"tokens": 1_000_000, "usd": 20.5, "eur": {"hard": "3.25", "soft": 1}}},
    {**task(), "defaults": {"retries": 3, "env": {"A": "b"}, "cache": True}},
]

ODD: list[Any] = [None, True, "x y", "", -1, 1.5, 10**20, [], {}, [1], [""], {"a": 1}, {"": "x"}, "a\0", {"a": None}]
TAKEN = {
    ("$schema", "'x y'"),
    ("$schema", "''"),
    ("$schema", repr("a\0")),
    ("max_parallel", "None"),
    ("defaults", "{}"),
    ("budgets", "{}"),
    ("budgets", "{'a': 1}"),
}
"""Odd values of the workflow's own keys that are none."""
BAD: list[Any] = [
    None,
    [],
    {},
    {"name": "w"},
    {"name": "w", "tasks": []},
    {"name": "w", "tasks": [{"id": "t"}]},
    {"name": "w", "defaults": {"retries": 1}, "tasks": [{"id": "t"}]},
    {"name": "w", "tasks": [{"command": ["x"]}]},
    {"name": "w", "tasks": [1]},
    {"name": "w", "tasks": {"t": {"command": ["x"]}}},
    *[{**task(), key: odd} for key in TOP_KEYS for odd in ODD if (key, repr(odd)) not in TAKEN],
    {**task(), "surprise": 1},
    {**task(), "defaults": {"id": "t"}},
    {**task(), "defaults": {"needs": []}},
    {**task(), "defaults": {"command": ["x"], "python": "a:b"}},
    {**task(), "name": "x" * (limits.NAME_CHARS_MAX + 1)},
    {**task(), "name": "-a"},
    {**task(), "priority": limits.PRIORITY_MAX + 1},
    {**task(), "max_parallel": 0},
    *[
        {**task(), "budgets": budgets}
        for budgets in (
            {"a b": 1}, {"usd": "1.0000001"}, {"usd": {}}, {"usd": {"hard": 1, "more": 1}}, {"usd": -1}, {"usd": 0},
            {f"b{number}": 1 for number in range(limits.BUDGETS_PER_WORKFLOW_MAX + 1)},
        )
    ],
    *[task(rates=rates) for rates in ({"a b": 1}, {"llm": 0}, {"llm": 1.5}, {"llm": True}, [])],
    task(rates={f"r{number}": 1 for number in range(limits.RATES_PER_TASK_MAX + 1)}),
    task(surprise=1),
    task(retrys=1),
    task(command=["x"], python="a:b"),
    task(command=["x"], args=[1]),
    task(command=["x"], kwargs={"a": 1}),
    task(command=["x"] * (limits.COMMAND_ARGS_MAX + 1)),
    task(command=["", "x"]),
    task(command="echo hi"),
    task(needs="other"),
    task(needs=["other", "other"]),
    *[task(python=text) for text in ("a", "a:", ":b", "a.:b", "1a:b", "a:b ", "ä:b", "a" * 512 + ":b")],
    call(kwargs={"$result": "other"}),
    *[task(env=env) for env in ({"": "x"}, {"A=B": "x"}, {"RAFTFLOW_X": "y"}, {"A": None}, {"A": 1.5}, {"A": True})],
    task(cwd="x" * 5_000),
    *[task(resources={"cpu": amount}) for amount in (-1, "many", "1K", "nan", "1e3", "-1", "1" * 41, None, True, [])],
    *[task(resources={"memory": size}) for size in ("many", "5 elephants", ".5", "5.", "-1", -1, True, "1XB")],
    task(resources={"a b": 1}),
    task(resources={f"r{n}": 1 for n in range(limits.RESOURCES_PER_TASK_MAX + 1)}),
    task(retries=limits.RETRIES_MAX + 1),
    *[task(timeout=value) for value in ("40", "s", "-1s", "1w", "1S", "1e3s", "", -1, True, None, [], "1s" * 40)],
    task(constraints={"labels": {"zone": 1}}),
    task(constraints={"labels": {"a b": "x"}}),
    task(constraints={"label": {}}),
    task(constraints={"exclusive": 1}),
    task(constraints={"labels": {f"l{n}": "" for n in range(limits.LABELS_MAX + 1)}}),
    task(cache={}),
    task(cache={"key": ""}),
    task(cache={"key": "x" * (limits.CACHE_KEY_CHARS_MAX + 1)}),
    task(cache={"key": "k", "more": 1}),
    task(cache="key"),
    task(memory_max="much"),
    *[
        waits(wait)
        for wait in (
            {}, {"signal": "a", "approval": "b"}, {"signal": ""}, {"signal": 1}, {"signal": "a\n"},
            {"signal": "a", "x": 1}, {"signal": "x" * (limits.NAME_CHARS_MAX + 1)}, {"signal": "a", "on_timeout": 1},
            {"signal": "a", "timeout": "soon"}, {"signal": "a", "choices": ["x"]}, {"approval": None},
            *[{"approval": "a", "choices": choices} for choices in ("x", [], [""], [1], ["x", "x"], ["x" * 101])],
            {"approval": "a", "choices": [str(number) for number in range(limits.CHOICES_MAX + 1)]},
            {"approval": "a", "timeout": 1, "on_timeout": 1}, {"approval": "a", "on_timeout": "deny"},
        )
    ],
    *[waits({"signal": "a"}, **{key: value})
      for key, value in {"timeout": "1s", "retries": 1, "command": ["x"], "env": {}}.items()],
]  # fmt: skip


def test_the_reader_and_the_schema_take_the_same_documents() -> None:
    for document in GOOD:
        assert faults_of(document) == [], document
        assert [str(error) for error in VALIDATOR.iter_errors(document)] == []


def test_the_reader_and_the_schema_refuse_the_same_documents() -> None:
    wrong = []
    for document in BAD:
        assert faults_of(document), document
        if VALIDATOR.is_valid(document):
            wrong.append(document)
    assert not wrong


@pytest.mark.parametrize("key", list(READERS))
def test_every_key_of_a_task_refuses_the_same_odd_values(key: str) -> None:
    for odd in ODD:
        for document in (task(**{key: odd}), {**task(), "defaults": {key: odd}}):
            faults = faults_of(document)
            if VALIDATOR.is_valid(document):
                assert all(BEYOND.search(fault) for fault in faults), (document, faults)
            else:
                assert faults, document


def test_every_key_is_there_and_is_described() -> None:
    document, parts = workflow_schema()
    assert list(document["properties"]) == list(TOP_KEYS)
    assert list(parts["TaskDocument"]["properties"]) == list(READERS)
    assert parts["TaskDefaults"]["properties"].keys() == READERS.keys() - OWN_KEYS
    for part in (document, parts["TaskDocument"], parts["TaskDefaults"]):
        for key, schema in part["properties"].items():
            assert schema.get("description") or schema["$ref"].endswith("TaskDefaults"), key


def test_defaults_are_those_of_the_reader() -> None:
    document, parts = workflow_schema()
    plain = normalize(task())
    for where, schema in (({}, document), ({"tasks": True}, parts["TaskDocument"])):
        for key, each in schema["properties"].items():
            if "default" not in each:
                continue
            said = {key: each["default"]}
            read = normalize(task(**said) if where else {**task(), **said})
            if key == "expected":
                assert read.tasks[1].expected_ms == 1_000, "unset is assumed to be so long; set it is not learnt"
                continue
            assert read == plain, key


def test_the_file_is_self_contained_and_named() -> None:
    schema = workflow_schema_file()
    assert schema["$id"] == SCHEMA_ID
    assert schema["$schema"].startswith("https://json-schema.org/")
    jsonschema_rs.meta.validate(schema)
    references = re.findall(r'"\$ref": "([^"]*)"', json.dumps(schema))
    assert references
    assert {reference.removeprefix("#/$defs/") for reference in references} <= schema["$defs"].keys()


@pytest.mark.parametrize("name", ["diamond.json", "report.yaml", "sum.toml"])
def test_the_examples_fit(name: str) -> None:
    assert VALIDATOR.is_valid(load(EXAMPLES / name))


@pytest.mark.parametrize(
    ("format_name", "text"),
    [
        ("json", '{"$schema": "s.json", "name": "w", "tasks": [{"id": "t", "command": ["true"]}]}'),
        (
            "yaml",
            "# yaml-language-server: $schema=s.json\n$schema: s.json\nname: w\ntasks:\n- {id: t, command: [x]}\n",
        ),
        ("toml", '#:schema s.json\n"$schema" = "s.json"\nname = "w"\n[[tasks]]\nid = "t"\ncommand = ["x"]\n'),
    ],
)
def test_a_document_may_name_its_schema_as_editors_want_it(format_name: str, text: str) -> None:
    document = loads(text.encode(), format_name)
    assert normalize(document) == normalize({key: value for key, value in document.items() if key != "$schema"})
    assert VALIDATOR.is_valid(document)
    assert faults_of({**document, "$schema": 1})[0].startswith("$schema: must be a string")


texts = st.sampled_from(["t", "u", "a:b", "1s", "2GiB", "1", "", "\0", "$result", "x y"]) | st.text(max_size=4)
numbers = (
    st.integers(-2, 5)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False).filter(lambda number: not number.is_integer())
)
values = st.recursive(
    st.none() | st.booleans() | numbers | texts,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(texts | st.sampled_from(["labels", "key"]), inner, max_size=3)
    ),
    max_leaves=6,
)
likely = {
    "id": st.sampled_from(["t", "u"]),
    "needs": st.lists(st.sampled_from(["t", "u"]), max_size=2),
    "command": st.lists(texts, min_size=1, max_size=2),
    "python": st.just("a:b"),
    "timeout": st.sampled_from(["1s", 2]),
    "retries": st.integers(0, 3),
}
tasks = st.fixed_dictionaries(
    {"id": st.sampled_from(["t", "u", "v"]) | values},
    optional={key: likely.get(key, values) | values for key in [*READERS, "other"] if key != "id"},
)


@settings(max_examples=300, deadline=None)
@given(
    st.fixed_dictionaries(
        {"name": st.just("w") | values, "tasks": st.lists(tasks, max_size=3) | values},
        optional={key: values for key in TOP_KEYS if key not in {"name", "tasks", "defaults"}}
        | {"defaults": st.fixed_dictionaries({}, optional={key: likely.get(key, values) for key in READERS})},
    )
)
def test_what_the_reader_takes_fits_and_what_fits_is_refused_for_nothing_else(document: dict[str, Any]) -> None:
    faults = faults_of(document)
    try:
        json.dumps(document, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        assert any(
            "is not valid Unicode" in fault or "not a text" in fault or "may hold" in fault for fault in faults
        )
        return
    if VALIDATOR.is_valid(document):
        assert all(BEYOND.search(fault) for fault in faults), faults
    else:
        assert faults
