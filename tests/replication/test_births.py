"""The rules by which a fresh replica is born, one by one, with real marks and introductions on simulated disks."""

from __future__ import annotations

import itertools
import random
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from raftflow.domain.features import LEVEL, NEXT_LEVEL
from raftflow.replication.errors import LogFailedError
from raftflow.replication.members.birth_file import BirthFile, OrderRefusedError
from raftflow.replication.members.births import Births, EmptiedError, IntroducedPeers
from raftflow.replication.members.identity import DataDir
from raftflow.replication.members.introducer import Introducer
from raftflow.simulation.world.disk import FaultyFileSystem, Loss, SimulatedCrash

DIR = Path("/data")
ABC, ABCDE = ("a", "b", "c"), ("a", "b", "c", "d", "e")


class Resident:
    """One replica: a disk, and of a life what concerns births."""

    def __init__(self, town: Town, name: str) -> None:
        self.town, self.name = town, name
        self.disk = FaultyFileSystem()
        self.data = False
        self.late: tuple[str, ...] = ()
        self.level = LEVEL
        self.joins = False
        self.stopped: Exception | None = None

    def start(self, members: tuple[str, ...] | None = None, *, ordered: bool = False) -> None:
        data = DataDir.open(self.disk, DIR, "c1", self.name)
        self.identity = data.disk_id
        data.close()
        self.stopped, self.linked = None, set()
        file = BirthFile(self.disk, DIR, ordered_now=ordered)
        record = file.open(self.identity, has_data=self.data)
        self.introducer = Introducer(self.disk, DIR, level=self.level)
        self.births = Births(
            self.name,
            () if self.joins else members or self.town.members,
            disk=self.identity,
            file=file,
            record=record,
            introduced_peers=IntroducedPeers(self.introducer, self.level),
            send=lambda peer, body: self.town.mail.append((self.name, peer, body)),
            has_data=lambda: self.data,
            late=lambda: self.late,
            on_born=lambda: None,
            joins=self.joins,
        )
        self.introducer.attach(self._on_emptied, self.births)
        self.introducer.open()
        self.births.start()

    def _on_emptied(self, peer: str, reason: str) -> None:
        self.stopped = self.stopped or self.births.judge_emptied(peer, reason)

    def guarded(self, act: Callable[[], None]) -> None:
        try:
            act()
        except (LogFailedError, SimulatedCrash) as error:
            self.stopped = error

    @property
    def born(self) -> bool:
        return self.births.born and self.stopped is None


class Town:
    """Replicas, and links between those that run and take each other."""

    def __init__(self, members: tuple[str, ...] = ABC) -> None:
        self.members = members
        self.people = {name: Resident(self, name) for name in members}
        self.mail: deque[tuple[str, str, bytes]] = deque()

    def __getitem__(self, name: str) -> Resident:
        return self.people[name]

    def start(self, *names: str, **how: object) -> None:
        for name in names or self.members:
            self[name].start(**how)

    def wipe(self, *names: str) -> None:
        for name in names:
            self.stop(name)
            self[name].disk, self[name].data = FaultyFileSystem(), False

    def stop(self, name: str) -> None:
        for peer in self.people:
            self.cut(name, peer)

    def cut(self, one: str, other: str) -> None:
        for name, peer in ((one, other), (other, one)):
            linked = getattr(self[name], "linked", set())
            if peer in linked:
                linked.discard(peer)
                self[name].births.link_down(peer)

    def link(self, *names: str) -> None:
        """Link all of these with each other, and let everything be said."""
        for one, other in itertools.combinations(names or self.members, 2):
            self._introduce(self[one], self[other])
            self.talk()

    def _introduce(self, one: Resident, other: Resident) -> None:
        if one.stopped or other.stopped or other.name in one.linked:
            return
        ends = ((one, other), (other, one))
        answers = {
            end.name: end.introducer.judge_disk(
                peer.name, end.introducer.read(peer.introducer.introduction(end.name))
            )
            for end, peer in ends
        }
        if all(answer.accepted for answer in answers.values()):
            one.linked.add(other.name)
            other.linked.add(one.name)
            for end, peer in ends:
                end.guarded(lambda end=end, peer=peer: end.births.link_up(peer.name))
        for end, peer in ends:
            if not answers[peer.name].accepted:
                end.introducer.note_refusal(peer.name, answers[peer.name])

    def talk(self) -> None:
        while self.mail:
            source, target, body = self.mail.popleft()
            end = self[target]
            if source in end.linked and not end.stopped:
                end.guarded(lambda end=end, source=source, body=body: end.births.receive(source, body))

    @property
    def born(self) -> list[str]:
        return [name for name in self.members if hasattr(self[name], "births") and self[name].born]

    def live(self) -> None:
        """All that are born have data from now on."""
        for name in self.born:
            self[name].data = True


def born_town(members: tuple[str, ...] = ABC) -> Town:
    town = Town(members)
    town.start()
    town.link()
    assert town.born == list(members)
    town.live()
    return town


def test_all_are_born_when_all_see_each_other_and_not_before() -> None:
    town = Town()
    town.start()
    town.link("a", "b")
    town.link("b", "c")
    assert town.born == []
    assert "c cannot be reached" in town["a"].births.describe_wait()
    town.link("a", "c")
    assert town.born == list(ABC)
    assert town["a"].births.founding_levels == dict.fromkeys(ABC, LEVEL)


@pytest.mark.parametrize("members", [ABC, ABCDE])
def test_no_proper_subset_that_was_wiped_is_born_again(members: tuple[str, ...]) -> None:
    """Every subset but all of them, the others running from the start, coming last, or away."""
    for count in range(1, len(members)):
        for wiped in itertools.combinations(members, count):
            for others in ("first", "last", "away"):
                town = born_town(members)
                rest = [name for name in members if name not in wiped]
                for name in members:
                    town.stop(name)
                town.wipe(*wiped)
                town.start(*wiped)
                if others != "first":
                    town.link(*wiped)
                if others != "away":
                    town.start(*rest)
                    town.link()
                    assert all(isinstance(town[name].stopped, EmptiedError) for name in wiped)
                    assert all(town[name].stopped is None for name in rest)
                assert not set(town.born) & set(wiped), (wiped, others)


def test_when_all_are_wiped_a_new_cluster_is_born() -> None:
    town = born_town()
    town.wipe(*ABC)
    town.start()
    town.link()
    assert town.born == list(ABC)


@pytest.mark.parametrize("seed", range(60))
def test_a_birth_survives_crashes_at_any_operation(seed: int) -> None:
    """Whoever was born stays so; nobody is called emptied that was not; in the end all are born."""
    rng = random.Random(seed)
    town = Town(rng.choice((ABC, ABCDE)))
    for _ in range(4):
        for name in rng.sample(town.members, len(town.members)):
            town.stop(name)
            disk = town[name].disk
            disk.restart(rng.choice(list(Loss)), rng)
            disk.crash_at = disk.steps + rng.randrange(1, 60)
            try:
                town.start(name)
                town.link(*[each for each in town.members if hasattr(town[each], "births")])
            except SimulatedCrash:
                town[name].stopped = RuntimeError("crashed")
            town.mail.clear()
    for name in town.members:
        town.stop(name)
        town[name].disk.restart(Loss.ALL, rng)
        town[name].disk.crash_at = None
    town.start()
    town.link()
    assert town.born == list(town.members), [town[name].stopped for name in town.members]


def test_a_founder_that_missed_the_end_is_told_by_another() -> None:
    town = Town()
    town.start()
    town.link("a", "b")
    town.link("b", "c")
    town._introduce(town["a"], town["c"])
    while not town["a"].births.born:  # and nobody else hears any more
        source, target, body = town.mail.popleft()
        if target == "a":
            town["a"].births.receive(source, body)
        elif source != "a" or not town["a"].births.born:
            town[target].births.receive(source, body)
    town.mail.clear()
    unborn = [name for name in "bc" if not town[name].births.born]
    assert unborn
    town.live()
    for name in unborn:
        town.stop(name)
        town.start(name)
        town.link("a", name)
        assert town[name].born


def test_a_wiped_directory_before_any_birth_is_no_harm() -> None:
    town = Town()
    town.start("a", "b")
    town.link("a", "b")
    town.wipe("b")
    town.start("b", "c")
    town.link()
    assert town.born == list(ABC)


def test_who_has_heard_of_a_cluster_does_not_forget_its_disks() -> None:
    """c knows a and b, which were born by order; both are wiped; c is fresh itself, and must not help them."""
    town = Town()
    town.start("a", ordered=True)
    town.start("b")
    town.link("a", "b")
    town.live()
    town.start("c")
    town.link("a", "c")  # not enough to be taken in, enough to have heard
    assert town.born == ["a", "b"]
    town.stop("c")
    town.wipe("a", "b")
    town.start()
    town.link()
    assert town.born == []
    assert isinstance(town["a"].stopped, EmptiedError)


def test_an_order_needs_a_majority_and_takes_the_others_in_later() -> None:
    town = Town()
    town.start("a", ordered=True)
    assert town.born == []
    assert "needs a majority" in town["a"].births.describe_wait()
    town.stop("a")
    town.start("a", "b")  # the order is remembered
    town.link("a", "b")
    assert town.born == ["a", "b"]
    town.live()
    town.start("c")
    town.link("a", "c")
    assert town.born == ["a", "b"]
    assert "more of its members must accept" in town["c"].births.describe_wait()
    town.link("b", "c")
    assert town.born == list(ABC)


def test_two_orders_at_once_found_one_cluster() -> None:
    town = Town()
    town.start("a", "c", ordered=True)
    town.start("b")
    town.link("a", "b")
    town.link("b", "c")
    assert town.born == ["a", "b"]
    assert isinstance(town["c"].stopped, OrderRefusedError)
    town.stop("c")
    town.start("c")
    town.link()
    assert town.born == list(ABC)


def test_an_order_is_refused_where_anybody_has_data() -> None:
    town = born_town()
    with pytest.raises(OrderRefusedError, match="holds data"):
        town.start("a", ordered=True)
    legacy = Town()
    legacy["a"].data = True  # from before there were births
    legacy.start("a")
    legacy.start("b", ordered=True)
    legacy.start("c")
    legacy.link()
    assert isinstance(legacy["b"].stopped, OrderRefusedError)
    legacy.stop("b")
    legacy.start("b")  # without
    legacy.link()
    assert legacy.born == ["a"]


def test_lists_that_differ_found_nothing() -> None:
    town = Town()
    town.start("a", "b")
    town.start("c", members=("a", "c", "d"))
    town.link()
    assert town.born == []
    assert "c lists other members (a, c, d)" in town["a"].births.describe_wait()
    town.stop("c")
    town.start("c")
    town.link()
    assert town.born == list(ABC)


def test_an_order_does_not_unite_lists_that_differ() -> None:
    town = Town((*ABC, "d"))
    town.start("a", members=ABC, ordered=True)
    town.start("b", members=("a", "b", "d"), ordered=True)
    town.link("a", "b")
    assert town.born == []
    assert "b lists other members (a, b, d)" in town["a"].births.describe_wait()


def test_one_that_joins_is_no_founder_and_vouches_for_nobody() -> None:
    town = Town()
    town["c"].joins = True
    town.start()
    town.link()
    assert town.born == ["c"]  # the log alone says whether it is a voter
    assert "c is configured to join" in town["a"].births.describe_wait()


def test_a_voter_that_came_later_cannot_be_fresh() -> None:
    town = Town((*ABC, "j"))
    town["j"].joins = True
    town["a"].late, town["a"].data = ("j",), True
    town.start("a", "j")
    town.link("a", "j")
    assert isinstance(town["j"].stopped, EmptiedError)


def test_a_birth_notes_the_lowest_level_of_the_founders() -> None:
    town = Town()
    town["a"].level = NEXT_LEVEL
    town.start()
    town.link()
    assert town.born == list(ABC)
    assert town["a"].births.founding_levels == dict.fromkeys(ABC, LEVEL)


def test_a_cluster_of_one_is_born_at_once() -> None:
    town = Town(("a",))
    town.start()
    assert town.born == ["a"]


@pytest.mark.parametrize("at", [0, 10, 30, -3])
def test_a_damaged_mark_is_refused(at: int) -> None:
    town = born_town()
    content = town["a"].disk.content(DIR / "birth")
    town["a"].disk.flip(DIR / "birth", at % len(content), 1)
    with pytest.raises(LogFailedError, match="birth is damaged"):
        town.start("a")


def test_a_mark_of_another_disk_is_refused() -> None:
    town = born_town()
    town["a"].disk.remove(DIR / "identity")
    with pytest.raises(LogFailedError, match="on another disk"):
        town.start("a")


def test_what_is_no_birth_message_is_refused() -> None:
    town = Town()
    town.start()
    for body in (b"", b"\xc1", msgspec.msgpack.encode({"format": 1, "stage": "born"})):
        with pytest.raises(ValueError, match=r".+"):
            town["a"].births.receive("b", body)
