"""Environment variables get what is written, or the document is refused; what a parser refuses has its path."""

from __future__ import annotations

import pytest

from raftflow.formats.documents import DocumentError, normalize
from raftflow.formats.files import FormatError, loads

TOML = 'name = "w"\n[[tasks]]\nid = "a"\npython = "m:f"\n{field} = {value}\n'
YAML = "name: w\ntasks:\n- id: a\n  python: m:f\n  {field}: {value}\n"
JSON = '{{"name": "w", "tasks": [{{"id": "a", "python": "m:f", "{field}": {value}}}]}}'
ENTRY = {"toml": "{{ A = {} }}", "yaml": "{{ A: {} }}", "json": '{{"A": {}}}'}


def read(form: str, field: str, value: str, bom: bytes = b"") -> dict[str, str]:
    text = {"toml": TOML, "yaml": YAML, "json": JSON}[form].format(field=field, value=value)
    (task,) = normalize(loads(bom + text.encode(), form)).tasks
    return task.env if field == "env" else {"args": task.program.args.decode()}


LONGEST = "9" * 640
PLAIN = {
    "toml": ["16", "-3", LONGEST, '"0x10"', "'1_000'", '"yes"', '"1e3"'],
    "yaml": ["16", "-3", LONGEST, '"0x10"', "'010'", "yes", "no", "on", "1_000", "1:30", "2024-01-01", "0b1"],
    "json": ["16", "-3", LONGEST, '"0x10"', '"yes"'],
}
QUOTE = {
    "toml": ["0x10", "0o17", "0b1", "1_000", "+5", "-0", "1.50", "1e3", "inf", "true", "2024-01-01", "07:32:00"],
    "yaml": ["0x10", "0o17", "010", "+5", "-0", "1.50", "1e3", ".inf", ".nan", "true", "False", "null", "~", ""],
    "json": ["1.50", "1e3", "true", "null", "[1]", "{}"],
}


@pytest.mark.parametrize(("form", "value"), [(form, value) for form, values in PLAIN.items() for value in values])
def test_a_variable_gets_what_is_written(form: str, value: str) -> None:
    assert read(form, "env", ENTRY[form].format(value)) == {"A": value.strip("'\"")}


@pytest.mark.parametrize(("form", "value"), [(form, value) for form, values in QUOTE.items() for value in values])
def test_a_variable_that_would_get_something_else_must_be_quoted(form: str, value: str) -> None:
    with pytest.raises(DocumentError, match=r"^tasks\[0\]\.env\.A: .*: quote it"):
        read(form, "env", ENTRY[form].format(value))
    if value:
        assert read(form, "env", ENTRY[form].format(f'"{value}"')) == {"A": value}


def test_defaults_are_looked_at_too_and_every_fault_is_told() -> None:
    text = "name: w\ndefaults: {env: {A: 0x1, B: 010}}\ntasks:\n- {id: a, command: [x], env: {C: +1}}\n"
    with pytest.raises(DocumentError) as caught:
        loads(text.encode(), "yaml")
    assert [each.path for each in caught.value.problems] == ["defaults.env.A", "defaults.env.B", "tasks[0].env.C"]


def test_an_alias_does_not_bring_a_number_into_an_environment() -> None:
    text = "name: w\ntasks:\n- {id: a, python: 'm:f', kwargs: &k {A: 0x10}}\n- {id: b, command: [x], env: *k}\n"
    with pytest.raises(DocumentError, match=r"tasks\[1\]\.env\.A: 0x10 is a number"):
        loads(text.encode(), "yaml")
    merged = text.replace("env: *k", "env: {<<: *k}")
    with pytest.raises(DocumentError, match=r"tasks\[1\]\.env\.A: 0x10 is a number"):
        loads(merged.encode(), "yaml")


@pytest.mark.parametrize(
    ("form", "value", "meant"),
    [
        ("toml", "[0x10, 1_000, +5, 0b11]", "[16,1000,5,3]"),
        ("toml", "[{ a = 0x10, b = '= 0x10', c = \"= 1_0\" }] # = 0x10", '[{"a":16,"b":"= 0x10","c":"= 1_0"}]'),
        ("toml", '[{ a = 1_000 }, \'\'\'\n= 0x1\n\'\'\', """\n= +5 \\""""]', '[{"a":1000},"= 0x1\\n","= +5 \\""]'),
        ("toml", "[{ a = 0x1 }, 0e01, 0e0, 1_0.5]", '[{"a":1},0.0,0.0,10.5]'),
        ("toml", "[1979-05-27T07:32:00Z]", '["1979-05-27T07:32:00+00:00"]'),
        ("yaml", "[0x10, 1_000, +5, 010]", '[16,"1_000",5,10]'),
        ("yaml", "[!!int 0x10, !!float 0x10, !!str 0x10]", '[16,16.0,"0x10"]'),
        ("yaml", "[0x" + "f" * 120 + "]", f"[{int('f' * 120, 16)}]"),
    ],
)
def test_everywhere_else_the_number_is_meant(form: str, value: str, meant: str) -> None:
    assert read(form, "args", value) == {"args": meant}


@pytest.mark.parametrize("form", ["toml", "yaml", "json"])
def test_a_byte_order_mark_is_passed_over_in_every_format(form: str) -> None:
    assert read(form, "args", '["\N{CJK UNIFIED IDEOGRAPH-5DE5}"]', b"\xef\xbb\xbf") == {
        "args": '["\N{CJK UNIFIED IDEOGRAPH-5DE5}"]'
    }


LONG = "1" * 5_000


@pytest.mark.parametrize(
    ("form", "value", "told"),
    [
        ("toml", f"[1, {{ x = {LONG} }}]", "tasks[0].args[1].x: a whole number has at most 640 digits"),
        ("toml", f"[{{ x = {'1_1' * 3_000} }}]", "tasks[0].args[0].x: a whole number has at most 640 digits"),
        ("yaml", f"[1, {{ x: {LONG} }}]", "line 5: tasks[0].args[1].x: a whole number has at most 640 digits"),
        ("json", f'[1, {{"x": {LONG}}}]', "tasks[0].args[1].x: a whole number has at most 640 digits"),
        ("toml", "[{ x = 1, x = 2 }]", "tasks[0].args.x: the key is there twice"),
        ("yaml", "[{ x: 1, x: 2 }]", "line 5: tasks[0].args[0].x: the key is there twice"),
        ("json", '[{"x": 1, "x": 2}]', "tasks[0].args[0].x: the key is there twice"),
        ("toml", "[]\nargs = []", "tasks[0].args: the key is there twice"),
        ("yaml", "[]\n  args: []", "line 6: tasks[0].args: the key is there twice"),
        ("json", '[], "args": []', "tasks[0].args: the key is there twice"),
        ("toml", "[]\nenv.A = '1'\nenv.A = '2'", "tasks[0].env.A: the key is there twice"),
        ("toml", "[]\n[tasks.env]\nA = '''\n1'''\nA = '''\n2'''\n", "tasks[0].env.A: the key is there twice"),
        ("toml", "[]\n[tasks.env]\n'a b' = '1'\n'a b' = '2'", "tasks[0].env.'a b': the key is there twice"),
        ("toml", "[]\n[tasks.env]\n[tasks.env]", "tasks.env: the key is there twice"),
    ],
)
def test_what_is_refused_by_a_parser_has_its_path(form: str, value: str, told: str) -> None:
    with pytest.raises(FormatError) as caught:
        read(form, "args", value)
    assert f"document: {told}" in str(caught.value)


def test_of_a_large_document_the_line_is_told() -> None:
    text = f'name = "w"\nname = "v"\n# {"x" * 300_000}\n'
    with pytest.raises(FormatError, match=r"Cannot overwrite a value \(at line 2"):
        loads(text.encode(), "toml")
