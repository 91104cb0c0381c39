"""Whom a replica dials: the file's word, then the list in the log; never who was removed."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from raftflow.coordinator.config import peer_directory as peers_module
from raftflow.coordinator.config.addresses import Address
from raftflow.coordinator.config.peer_directory import PeerDirectory
from raftflow.coordinator.config.replica_config import CoordinatorConfig, Limits, MemberConfig, Timing
from raftflow.replication.members.membership import MemberInfo, Membership, MembershipVersion

A, B, C, D = (MemberInfo(name, f"{name}:1", f"http://{name}:2") for name in "abcd")


def directory_of(told: list[set[str]], names: str = "abc") -> PeerDirectory:
    config = CoordinatorConfig(
        cluster_id="c1",
        secret=b"s" * 32,
        members=tuple(MemberConfig(name=name, peer=Address(name, 1), url=f"http://{name}:2") for name in names),
        name="a",
        data_dir=Path("/nowhere"),
        bind=Address("a", 2),
        peer_bind=Address("a", 1),
        timing=Timing(),
        limits=Limits(),
    )
    return PeerDirectory(config, lambda peers: told.append(set(peers)))


async def test_a_removed_member_that_stands_in_the_file_is_not_dialled_after_a_restart() -> None:
    told: list[set[str]] = []
    directory = directory_of(told)
    without_c = Membership((A, B, D), (), ("c",))
    directory.follow(MembershipVersion(without_c, 9, 9, ("c",)))
    assert told == [{"b", "d"}]


async def test_one_that_is_removed_now_can_be_told_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers_module, "FAREWELL_S", 0.05)
    told: list[set[str]] = []
    directory = directory_of(told)
    directory.follow(MembershipVersion(Membership((A, B, C))))
    directory.follow(MembershipVersion(Membership((A, B, D), (), ("c",)), 9, 9, ("c",)))
    assert told[-1] == {"b", "c", "d"}
    changed = asyncio.Event()
    directory._set_peers = lambda peers: (told.append(set(peers)), changed.set())
    await asyncio.wait_for(changed.wait(), 10)
    assert told[-1] == {"b", "d"}


async def test_a_removal_that_may_still_be_cut_off_takes_nobody_out_at_the_start() -> None:
    told: list[set[str]] = []
    directory = directory_of(told)
    directory.follow(MembershipVersion(Membership((A, B, D), (), ("c",)), 9, 4, ()))
    assert told == [{"b", "c", "d"}]
