"""``uuid_hash_extended`` of Postgres (Bob Jenkins' lookup3): the fake ranks nodes as the real one does."""

from __future__ import annotations

from functools import lru_cache
from uuid import UUID

__all__ = ["uuid_hash_extended"]

MASK = 0xFFFFFFFF


def rot(x: int, k: int) -> int:
    return (x << k | x >> (32 - k)) & MASK


def mix(a: int, b: int, c: int) -> tuple[int, int, int]:
    for one, two, three in ((4, 6, 8), (16, 19, 4)):
        a = (a - c & MASK) ^ rot(c, one)
        c = c + b & MASK
        b = (b - a & MASK) ^ rot(a, two)
        a = a + c & MASK
        c = (c - b & MASK) ^ rot(b, three)
        b = b + a & MASK
    return a, b, c


def final(a: int, b: int, c: int) -> tuple[int, int, int]:
    c = (c ^ b) - rot(b, 14) & MASK
    a = (a ^ c) - rot(c, 11) & MASK
    b = (b ^ a) - rot(a, 25) & MASK
    c = (c ^ b) - rot(b, 16) & MASK
    a = (a ^ c) - rot(c, 4) & MASK
    b = (b ^ a) - rot(a, 14) & MASK
    c = (c ^ b) - rot(b, 24) & MASK
    return a, b, c


@lru_cache(4096)
def uuid_hash_extended(value: UUID, seed: int) -> int:
    """Return the hash as a signed bigint."""
    words = [int.from_bytes(value.bytes[at : at + 4], "little") for at in range(0, 16, 4)]
    a = b = c = 0x9E3779B9 + 16 + 3923095 & MASK
    if seed:
        a, b = a + (seed >> 32) & MASK, b + seed & MASK
        a, b, c = mix(a, b, c)
    a, b, c = mix(a + words[0] & MASK, b + words[1] & MASK, c + words[2] & MASK)
    _, b, c = final(a + words[3] & MASK, b, c)
    hashed = b << 32 | c
    return hashed - (1 << 64) if hashed >> 63 else hashed
