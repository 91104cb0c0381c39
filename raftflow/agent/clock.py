"""The agent's clocks and its lease."""

from __future__ import annotations

import time


def now_ns() -> int:
    """Return CLOCK_BOOTTIME: it never jumps, and it goes on while the process is stopped or the machine sleeps."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


_GRACE_SHARE = 10
_GRACE_MAX_NS = 500_000_000


class Lease:
    """The agent's right to run attempts, as the agent itself must see it: counted from when a poll was *sent*.

    The leader counts from when it arrived, so an agent that has stopped everything by `until_ns` has done so before
    anybody takes its attempts away. To keep that promise and still let programs end in an orderly way, stopping
    begins a little earlier, at `stop_at_ns`.
    """

    def __init__(self) -> None:
        self.confirmed_at_ns = 0
        self.until_ns = 0
        """When the lease ends."""
        self.stop_at_ns = 0
        """When attempts are asked to end."""

    def start(self, sent_at_ns: int, lease_ms: int) -> None:
        """Begin a lease, as of when the registration was sent."""
        length_ns = lease_ms * 1_000_000
        self.confirmed_at_ns = sent_at_ns
        self.until_ns = sent_at_ns + length_ns
        self.stop_at_ns = self.until_ns - min(length_ns // _GRACE_SHARE, _GRACE_MAX_NS)

    def confirm(self, sent_at_ns: int, lease_ms: int) -> None:
        """A poll sent at that time was answered. Answers may come in another order than polls."""
        if sent_at_ns >= self.confirmed_at_ns:
            self.start(sent_at_ns, lease_ms)

    def is_over(self, now_ns: int) -> bool:
        """Tell whether attempts must end (or be ended) now."""
        return now_ns >= self.stop_at_ns

    def left_s(self, now_ns: int) -> float:
        """Return the seconds until `until_ns`, 0 if it has passed."""
        return max(self.until_ns - now_ns, 0) / 1e9
