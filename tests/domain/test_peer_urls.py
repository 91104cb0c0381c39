"""What is learned of the replicas' URLs, and what is not believed."""

from __future__ import annotations

import pytest

from raftflow.domain.tasks.peer_urls import PEERS_TOLD_MAX, learn_peers, order_peers, tell_peers


def test_what_is_told_is_learned() -> None:
    told = tell_peers(["http://a:1/", "", "http://b:1"])
    assert told == "http://a:1,http://b:1"
    assert learn_peers(told, "http://b:1") == ["http://a:1", "http://b:1"]


@pytest.mark.parametrize(
    ("told", "base"),
    [
        ("", "http://a:1"),
        ("http://a:1,http://b:1", "http://proxy:80"),
        ("ftp://a:1", "ftp://a:1"),
        (",".join(f"http://a:{number}" for number in range(1, PEERS_TOLD_MAX + 2)), "http://a:1"),
    ],
)
def test_a_list_that_is_of_no_use_is_not_followed(told: str, base: str) -> None:
    assert learn_peers(told, base) is None


def test_what_cannot_be_a_url_is_left_out() -> None:
    told = "http://a:1,http://b 2,http://\xfc:1,http://" + "x" * 300 + ",http://a:1"
    assert learn_peers(told, "http://a:1") == ["http://a:1"]


def test_tls_is_not_left() -> None:
    assert learn_peers("https://a:1,http://b:1", "https://a:1") == ["https://a:1"]


def test_who_answered_comes_first_and_the_configuration_last() -> None:
    assert order_peers("u2", ["u1", "u2", "u3"], ["u0", "u1"]) == ["u2", "u1", "u3", "u0"]
