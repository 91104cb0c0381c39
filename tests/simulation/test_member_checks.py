"""The model of the members: each of its checks is shown what must never happen."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from raftflow.domain.features import LEVEL
from raftflow.replication.members.membership import MemberInfo, Membership
from raftflow.simulation.checkers.member_checks import MemberModel


def info(name):
    return MemberInfo(name, f"{name}:1", f"sim://{name}")


def listed(names, removed=""):
    return Membership(tuple(info(name) for name in names), (), tuple(removed))


class Replica:
    """A replica whose log is a list of terms, from index 1 on."""

    def __init__(self, model, name, terms=(1, 1, 1), *, term=1, commit=3, level=LEVEL) -> None:
        self.name, self.level = name, level
        self.terms = list(terms)
        self.raft = SimpleNamespace(
            term=term,
            commit_index=commit,
            first_index=1,
            last_index=len(self.terms),
            holds=lambda index, of: 0 < index <= len(self.terms) and self.terms[index - 1] == of,
            append_membership=self._append,
            on_membership=lambda: None,
            members=SimpleNamespace(base_index=0, base=Membership()),
        )
        self.log = SimpleNamespace(_raft=self.raft)
        model.watch(self, self.log)

    def _append(self, _listed, _callback) -> None:
        self.terms.append(self.raft.term)
        self.raft.last_index += 1

    def append(self, listed) -> None:
        self.raft.append_membership(listed, None)

    def settle(self, listed, index=None) -> None:
        """Commit the list at the end of the log."""
        self.raft.commit_index = self.raft.last_index
        self.raft.members.base, self.raft.members.base_index = listed, index or self.raft.last_index
        self.raft.on_membership()


@pytest.fixture
def found():
    return []


@pytest.fixture
def model(found):
    model = MemberModel(lambda kind, _detail: found.append(kind))
    model.founded(("a", "b", "c"))
    return model


def test_one_change_after_the_other_is_fine(model, found) -> None:
    a = Replica(model, "a")
    for names in ("abcd", "abcde"):
        a.append(listed(names))
        a.settle(listed(names))
    model.removal_asked("b")
    a.append(listed("acde", "b"))
    a.settle(listed("acde", "b"))
    model.acknowledge("remove", "b")
    model.acknowledge("add", "d")
    model.told("b")
    model.check_end(listed("acde", "b"))
    assert found == []
    assert model.possible() == {frozenset("acde")}


def test_a_change_before_the_one_before_is_settled(model, found) -> None:
    a = Replica(model, "a")
    a.append(listed("abcd"))
    a.append(listed("abcde"))
    assert found == ["two changes"]


def test_a_change_before_an_entry_of_the_own_term_is_committed(model, found) -> None:
    Replica(model, "a", term=2).append(listed("abcd"))
    assert found == ["two changes"]


def test_two_voters_at_once(model, found) -> None:
    Replica(model, "a").append(listed("abcde"))
    assert found == ["two changes"]


def test_a_list_that_was_never_committed_comes_out_of_a_snapshot(model, found) -> None:
    a = Replica(model, "a")
    a.append(listed("abcd"))
    a.settle(listed("abcd"), index=2)
    assert found == ["wrong members"]


def test_a_list_that_forgets_who_was_removed(model, found) -> None:
    a = Replica(model, "a")
    for each in (listed("abcd"), listed("abd", "c"), listed("abde")):
        a.append(each)
        a.settle(each)
    assert found == ["wrong members"]


def test_a_leader_without_the_votes_of_a_majority(model, found) -> None:
    a, b = Replica(model, "a"), Replica(model, "b")
    model.voted("b", b.log, "a", 1)
    model.leads("a", a.log)
    assert found == []
    a.raft.term = 2
    model.leads("a", a.log)
    assert found == ["without majority"]


def test_votes_count_by_the_newest_list_of_the_log(model, found) -> None:
    a, b = Replica(model, "a"), Replica(model, "b")
    a.append(listed("abcd"))
    model.voted("b", b.log, "a", 1)
    model.leads("a", a.log)
    assert found == ["without majority"]


def test_a_newcomer_that_leads(model, found) -> None:
    model.leads("d", Replica(model, "d").log)
    assert found == ["outsider"]


def test_a_removed_replica_that_leads_votes_or_is_told_too_early(model, found) -> None:
    a, d = Replica(model, "a"), Replica(model, "d")
    model.told("d")
    assert found == ["removed"]
    for each in (listed("abcd"), listed("abc", "d")):
        a.append(each)
        a.settle(each)
    d.raft.members.base = listed("abc", "d")
    model.voted("d", d.log, "b", 5)
    assert found == ["removed"] * 2
    d.raft.term = 5
    model.leads("d", d.log)
    assert found == ["removed", "removed", "outsider", "outsider"]


def test_acknowledged_changes_that_are_not_there(model, found) -> None:
    model.acknowledge("add", "d")
    model.acknowledge("remove", "c")
    assert found == ["wrong members"] * 2
    model.check_end(listed("abc"))
    assert found == ["wrong members"] * 3


def test_a_removal_that_nobody_asked_for(model, found) -> None:
    a = Replica(model, "a")
    for each in (listed("abcd"), listed("abd", "c")):
        a.append(each)
        a.settle(each)
    model.check_end(listed("abd", "c"))
    assert found == ["wrong members"]


def test_a_leader_that_shows_another_list(model, found) -> None:
    model.check_end(listed("abd"))
    assert found == ["wrong members"]
