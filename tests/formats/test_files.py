"""Files in: each format, and what their errors say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.files import FormatError, load, loads
from raftflow.formats.foreign.wfformat import Conversion
from raftflow.formats.readers.yaml_reader import YamlError, parse_yaml


@pytest.mark.parametrize("name", ["sum.toml", "report.yaml", "diamond.json", "recorded.wfformat.json"])
def test_every_example_is_a_workflow(examples: Path, name: str) -> None:
    assert normalize(load(examples / name)).name == name.split(".", maxsplit=1)[0]


def test_no_example_is_left_out(examples: Path) -> None:
    assert sorted(path.name for path in examples.iterdir()) == [
        "diamond.json",
        "recorded.wfformat.json",
        "report.yaml",
        "sum.toml",
    ]


def test_the_three_formats_say_the_same() -> None:
    toml = b'name = "w"\n[[tasks]]\nid = "a"\ncommand = ["x", "1"]\nresources = { cpu = 0.5 }\n'
    yaml = b'name: w\ntasks:\n- id: a\n  command: [x, "1"]\n  resources: {cpu: 0.5}\n'
    json = b'{"name": "w", "tasks": [{"id": "a", "command": ["x", "1"], "resources": {"cpu": 0.5}}]}'
    assert loads(toml, "toml") == loads(yaml, "yaml") == loads(json, "json")


@pytest.mark.parametrize(
    ("data", "format_name", "said"),
    [
        (b'name = "w"\nname = "v"\n', "toml", "line 2"),
        (b"a = [\n1,\n", "toml", "at end of document"),
        (b"a = " + b"[" * 5000 + b"]" * 5000, "toml", "nested too deeply"),
        (b"a = " + b"9" * 5000, "toml", "digits"),
        (b"a = 1979-99-99", "toml", "line 1"),
        (b'{\n "name": }', "json", "line 2, column"),
        (b"[" * 5000, "json", "nested more than 64 levels deep"),
        (b"name: w\n\ttasks: 1", "yaml", "line 2"),
        (b"a: 1\nb: 2\na: 3\n", "yaml", "line 3: a: the key is there twice"),
        (b"a: 1\n\xff", "yaml", "line 2: not UTF-8"),
        (b"[1, 2]", "json", "must be a table"),
        (b"x", "ini", "unknown format 'ini'"),
    ],
)
def test_errors_say_where(data: bytes, format_name: str, said: str) -> None:
    with pytest.raises(FormatError, match=r"^my\.file: ") as caught:
        loads(data, format_name, source="my.file")
    assert said in str(caught.value)


def test_the_format_is_in_the_ending_or_in_the_content(tmp_path: Path) -> None:
    file = tmp_path / "flow.txt"
    file.write_text("what is this")
    with pytest.raises(FormatError, match="--format"):
        load(file)
    file.write_text("name: w")
    assert load(file) == {"name": "w"}
    assert load(file, "yaml") == {"name": "w"}
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.toml")


def test_only_recorded_workflows_are_scaled() -> None:
    with pytest.raises(FormatError, match="only WfFormat"):
        loads(b'{"name": "w"}', "json", conversion=Conversion(time_scale=0.5))
    assert loads(b'{"name": "w"}', "json", conversion=Conversion()) == {"name": "w"}


def test_dates_of_toml_become_texts() -> None:
    assert loads(b"a = [1979-05-27, 07:32:00, 1979-05-27T07:32:00Z]", "toml") == {
        "a": ["1979-05-27", "07:32:00", "1979-05-27T07:32:00+00:00"]
    }


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[yes, on, 1:30, 2020-01-01, '1', 0777]", ["yes", "on", "1:30", "2020-01-01", "1", 777]),
        ("[true, False, null, ~]", [True, False, None, None]),
        ("[1, -2, 0x10, 0o17, 1.5, .5, 1e3]", [1, -2, 16, 15, 1.5, 0.5, 1000.0]),
        ("[.inf, -.inf]", [float("inf"), float("-inf")]),
        ("1: a\ntrue: b", {"1": "a", "true": "b"}),
        ("a: &x [1, 2]\nb: *x", {"a": [1, 2], "b": [1, 2]}),
        ("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}", {"a": {"p": 1, "q": 2}, "b": {"p": 1, "q": 3}}),
        ("[&x {p: 1}, &y {p: 2, q: 2}, {<<: [*x, *y]}]", [{"p": 1}, {"p": 2, "q": 2}, {"p": 1, "q": 2}]),
        ('"<<": 1', {"<<": 1}),
        ("!!str 1", "1"),
        ("!!int 1", 1),
        ("!!float 1", 1.0),
        ("a: |\n  x\n  y\n", {"a": "x\ny\n"}),
        ("", None),
    ],
)
def test_yaml_values(text: str, value: Any) -> None:
    assert parse_yaml(text) == value


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200 + "]" * 200, "deeper"),
        ("[" * 100_000, "deeper"),
        ("? [a]\n: 1", "a key must be a string"),
        ("a: !!python/object/apply:os.system [ls]", "not supported"),
        ("!!set {a}", "not supported"),
        ("!!timestamp 2020-01-01", "not supported"),
        ("!!int x", "does not fit"),
        ("--- 1\n--- 2", "line 2: a second document"),
        ("a: *x", "alias|anchor"),
        ("a: &x [*x]", "no complete anchor"),
        ("{<<: 1}", "merges"),
        ("a: &x [1]\n*x : 2", "a key must be a string"),
        ("a: 1\nb: c: d", "line 2"),
    ],
)
def test_yaml_that_is_refused(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        parse_yaml(text)


def test_aliases_count_with_what_they_stand_for() -> None:
    """Nine levels of nine aliases each would be a billion values."""
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{n}: &a{n} [{','.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 10)]
    with pytest.raises(YamlError, match="aliases counted"):
        parse_yaml("\n".join(lines))


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=60) | st.text("{}[]:,-&*<!|>\n #'\"ab1=.\\", max_size=60).map(str.encode))
@example(data=b"--- &a [*a, !!binary x]")
def test_whatever_is_in_a_file_it_is_a_document_or_a_named_error(data: bytes) -> None:
    for format_name in ("toml", "yaml", "json", None):
        try:
            assert isinstance(loads(data, format_name), dict)
        except (FormatError, DocumentError) as error:
            str(error).encode()


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.text("abc -:#'\n", max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abc <", max_size=4), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=200, deadline=None)
@given(value=json_values)
def test_what_yaml_writes_is_read_back(value: Any) -> None:
    assert parse_yaml(yaml.safe_dump(value)) == value
