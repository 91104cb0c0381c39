"""Following a cluster whose members change: agents and clients learn the replicas' URLs from the answers they get."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

PEERS_TOLD_MAX: Final = 99
_CHARS_MAX: Final = 300


def tell_peers(urls: Iterable[str]) -> str:
    """Return the value of `X-Raftflow-Peers`: the URLs of the voting members; those without one are left out."""
    return ",".join(url.rstrip("/") for url in urls if url)


def learn_peers(told: str, base: str) -> list[str] | None:
    """Return the URLs in `X-Raftflow-Peers`, None if they are of no use.

    The replica at `base` answered. A list without it means other addresses than the asker uses (there is a proxy or
    a tunnel in between), so it is not followed. Who was asked by TLS follows to nothing less.
    """
    urls = [url for url in told.split(",") if _is_base(url)]
    if base not in urls or len(urls) > PEERS_TOLD_MAX:
        return None
    if base.startswith("https://"):
        urls = [url for url in urls if url.startswith("https://")]
    return list(dict.fromkeys(urls))


def order_peers(first: str, learned: Sequence[str], configured: Sequence[str]) -> list[str]:
    """Return the URLs to ask, in order: the one that answered last, the members, then those of the configuration."""
    return list(dict.fromkeys([first, *learned, *configured]))


def _is_base(url: str) -> bool:
    good = url.isascii() and url.isprintable() and " " not in url and len(url) <= _CHARS_MAX
    return good and url.startswith(("http://", "https://"))
