"""Names in certificates: which role and name count, and which replica a certificate may stand for."""

from __future__ import annotations

from typing import Any

import pytest

from raftflow.certified_names import CertifiedName, CertifiedNameError, is_replica, owner_of, serial_of


def certificate(*names: tuple[str, str], common_name: str = "x") -> dict[str, Any]:
    return {"subject": ((("commonName", common_name),),), "subjectAltName": names, "serialNumber": "0A"}


def test_the_owner_is_a_uri_among_the_names() -> None:
    assert owner_of(certificate(("DNS", "h"), ("URI", "raftflow://submit/alice"))) == ("submit", "alice")
    assert CertifiedName("submit", "alice").uri == "raftflow://submit/alice"
    assert serial_of(certificate()) == 10


@pytest.mark.parametrize("names", [(), (("DNS", "raftflow://admin/a"),), (("URI", "https://admin/a"),)])
def test_a_certificate_without_such_a_name_is_nobodys(names: tuple[tuple[str, str], ...]) -> None:
    assert owner_of(certificate(*names, common_name="admin")) is None


@pytest.mark.parametrize(
    "uri",
    [
        "raftflow://",
        "raftflow://admin",
        "raftflow://admin/",
        "raftflow://all/a",
        "raftflow://root/a",
        "raftflow://agent/a/b",
        "raftflow://agent/a b",
        "raftflow://agent/" + "a" * 1000,
        "raftflow:///a",
    ],
)
def test_an_unknown_name_is_refused(uri: str) -> None:
    with pytest.raises(CertifiedNameError):
        owner_of(certificate(("URI", uri)))


def test_a_certificate_for_two_is_refused() -> None:
    with pytest.raises(CertifiedNameError, match="2 names"):
        owner_of(certificate(("URI", "raftflow://agent/a"), ("URI", "raftflow://admin/a")))


@pytest.mark.parametrize(
    ("names", "common_name", "fits"),
    [
        ((("URI", "raftflow://replica/n1"),), "x", True),
        ((("URI", "raftflow://replica/n2"),), "n1", False),
        ((("URI", "raftflow://agent/n1"), ("IP Address", "10.0.0.1")), "n1", False),
        ((("URI", "raftflow://nonsense"),), "n1", False),
        ((), "n1", True),
        ((), "n2", False),
        ((("DNS", "n1"),), "x", True),
        ((("IP Address", "10.0.0.1"),), "x", True),
        ((("IP Address", "10.0.0.2"),), "x", False),
        ((("email", "n1"),), "x", False),
    ],
)
def test_a_certificate_stands_for_one_replica(
    names: tuple[tuple[str, str], ...], common_name: str, *, fits: bool
) -> None:
    assert is_replica(certificate(*names, common_name=common_name), "n1", {"10.0.0.1"}) is fits
