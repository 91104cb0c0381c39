"""The secret of the replicas is replaced while their links are up."""

from typing import Any

OLD = b"the secret that is replaced"
NEW = b"the secret that comes instead"


async def test_links_made_with_an_old_secret_are_made_again_and_nothing_is_refused(world: Any) -> None:
    b = await world.node("b", peers=["a"], secret=OLD)
    a = await world.node("a", addresses={"b": b.address}, secret=OLD)
    await a.until_event("up", "b")
    await b.until_event("up", "a")
    for secrets in ((OLD, NEW), (NEW, OLD)):
        for node in (a, b):
            node.links.use_secrets(secrets)
    assert a.ups_and_downs("b") == ["up"], "a link that both accept stays"
    b.links.use_secrets((NEW,))
    await a.until(lambda: a.ups_and_downs("b") == ["up", "down", "up"])
    a.links.use_secrets((NEW,))
    assert a.links.send("b", b"after it")
    await b.until(lambda: b.frames == [b"after it"])
    assert a.ups_and_downs("b") == ["up", "down", "up"], "its link has the new secret already"
    assert not [reason for node in (a, b) for reason in node.links.stats if "secret" in reason]
    stranger = await world.node("a", addresses={"b": b.address}, secret=OLD)
    await stranger.until_counted("refused_by_peer_wrong_secret")


async def test_a_replica_tries_its_other_secret_when_the_first_is_refused(world: Any) -> None:
    told: list[str] = []
    b = await world.node("b", peers=["a"], secret=OLD)
    a = await world.node("a", addresses={"b": b.address}, secret=NEW, other_secrets=(OLD,), on_shut_out=told.append)
    await a.until_event("up", "b")
    assert a.links.stats["refused_by_peer_wrong_secret"] == 1
    assert told == []
