"""Templates of cache keys."""

from __future__ import annotations

import pytest

from raftflow.domain.values.cachekeys import Reference, parse_key, referred


def test_texts_and_references_in_order():
    assert parse_key("train-${fetch.digest}/${a.b.result}") == [
        "train-",
        Reference("fetch", "digest"),
        "/",
        Reference("a.b", "result"),
    ]
    assert referred("train-${fetch.digest}/${a.b.result}") == ["fetch", "a.b"]
    assert parse_key("${a.digest}") == [Reference("a", "digest")]
    assert parse_key("$a {b}") == ["$a {b}"]


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("${}", "is not a reference"),
        ("${a}", "is not a reference"),
        ("${.digest}", "is not a reference"),
        ("${a.size}", "is not a reference"),
        (f"${{{'a' * 201}.digest}}", "is not a reference"),
        ("${a.digest", "without its '}'"),
        ("${${a.digest}", "without its '}'"),
        ("a\0b", "NUL"),
        ("x" * 1_025, "1025 characters long, the limit is 1024"),
    ],
)
def test_what_is_wrong_is_said(template, message):
    with pytest.raises(ValueError, match=message):
        parse_key(template)
