"""Borders of characters in UTF-8."""

from __future__ import annotations

CHARACTER_BYTES_MAX = 4


def incomplete_suffix(data: bytes) -> int:
    """Return how many bytes at the end begin a character without ending it: 0 to 3.

    Bytes that can be part of no character count for nothing.
    """
    for count in range(1, min(len(data), CHARACTER_BYTES_MAX - 1) + 1):
        byte = data[-count]
        if byte & 0xC0 == 0x80:
            continue
        wanted = 2 if 0xC2 <= byte <= 0xDF else 3 if 0xE0 <= byte <= 0xEF else 4 if 0xF0 <= byte <= 0xF4 else 1
        return count if wanted > count else 0
    return 0


def continuation_prefix(data: bytes) -> int:
    """Return how many bytes at the beginning continue a character that began before: 0 to 3."""
    count = 0
    while count < min(len(data), CHARACTER_BYTES_MAX - 1) and data[count] & 0xC0 == 0x80:
        count += 1
    return count
