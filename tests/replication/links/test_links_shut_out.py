"""A replica whose secret is not the cluster's finds that out and says so."""

from typing import Any

OURS = b"the secret of the cluster it is"
OTHER = b"another secret, long enough too"


async def node(world: Any, name: str, told: list[str], **options: Any) -> Any:
    return await world.node(name, on_shut_out=told.append, **options)


async def test_a_majority_with_another_secret_shuts_a_replica_out(world: Any) -> None:
    told: dict[str, list[str]] = {"a": [], "b": [], "c": []}
    c = await node(world, "c", told["c"], peers=["a", "b"], secret=OTHER)
    b = await node(world, "b", told["b"], peers=["a"], addresses={"c": c.address}, secret=OURS)
    await node(world, "a", told["a"], addresses={"b": b.address, "c": c.address}, secret=OURS)
    await b.until_event("up", "a")
    await c.until(lambda: told["c"])
    assert "a, b" in told["c"][0]
    assert "secret_file" in told["c"][0]
    assert told["a"] == told["b"] == []


async def test_one_of_two_peers_proves_nothing(world: Any) -> None:
    told: list[str] = []
    c = await node(world, "c", told, peers=["a", "b"], secret=OTHER)
    b = await node(world, "b", told, peers=["a"], addresses={"c": c.address}, secret=OURS)
    await b.until(lambda: b.links.stats["refused_by_peer_wrong_secret"] >= 2)
    await c.until(lambda: c.links.stats["refused_wrong_secret"] >= 2)
    assert told == []


async def test_claims_of_strangers_do_not_count_once_a_link_was_up(world: Any) -> None:
    told: list[str] = []
    c = await node(world, "c", told, peers=["a", "b"], secret=OURS)
    await world.node("a", addresses={"c": c.address}, secret=OURS)
    await c.until_event("up", "a")
    for claimed in ("a", "b"):
        before = c.links.stats["refused_wrong_secret"]
        await world.node(claimed, addresses={"c": c.address}, secret=OTHER)
        await c.until(lambda before=before: c.links.stats["refused_wrong_secret"] > before)
    assert told == []
