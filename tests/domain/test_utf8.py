"""Borders of characters."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from raftflow.domain.contract.views import TaskLog
from raftflow.domain.values.utf8 import continuation_prefix, incomplete_suffix


@given(st.text(min_size=1), st.data())
def test_a_text_cut_anywhere_is_mended_by_dropping_what_they_say(text: str, data: st.DataObject) -> None:
    whole = text.encode("utf-8", "surrogatepass") if text.isprintable() else text.encode("utf-8", "ignore")
    at = data.draw(st.integers(0, len(whole)))
    head, tail = whole[:at], whole[at:]
    head = head[: len(head) - incomplete_suffix(head)]
    assert head.decode() == whole.decode()[: len(head.decode())]
    tail[continuation_prefix(tail) :].decode()


def test_bytes_that_are_no_text_are_not_waited_for() -> None:
    for data in (b"", b"a", b"\xff", b"\x80\x80\x80\x80", b"\xc0", b"\xf5\x80", b"\xe4\xb8\xad"):
        assert incomplete_suffix(data) == 0, data
    assert [incomplete_suffix(data) for data in (b"a\xe4", b"\xe4\xb8", b"\xf0\x9f\x98", b"\xc3")] == [1, 2, 3, 1]
    assert [continuation_prefix(data) for data in (b"", b"a", b"\xb8\xad", b"\x80" * 9)] == [0, 0, 2, 3]


def test_a_piece_of_output_tells_its_bytes() -> None:
    def piece(text: str, data: bytes | None) -> TaskLog:
        return TaskLog(
            attempt=1,
            agent="a",
            stream="stdout",
            offset=0,
            text=text,
            data=data,
            size=3,
            truncated=False,
            complete=True,
        )

    assert piece("é", None).content() == "é".encode()
    assert piece("a\ufffd", b"a\xff").content() == b"a\xff"
