"""Who a request comes from: the address that counts, and its keyed hash."""

from __future__ import annotations

import hmac
from collections.abc import Callable, Iterable
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from eventstore.errors import ConfigurationError

__all__ = ["Network", "address_hash", "address_in", "first_hop", "networks", "trusted"]

Network = IPv4Network | IPv6Network

KNOWN = 4096
"""Addresses whose hash is remembered, and peers of which it is known whether they are proxies."""


def networks(proxies: Iterable[str | Network]) -> tuple[Network, ...]:
    """Return proxies, given as addresses or networks, as networks.

    Raises:
        ConfigurationError: one is neither.
    """
    if isinstance(proxies, str):
        raise ConfigurationError(f"trusted_proxies is a list of addresses and networks, such as [{proxies!r}]")
    try:
        return tuple(ip_network(one) for one in proxies)
    except ValueError as error:
        raise ConfigurationError(f"trusted_proxies holds addresses and networks: {error}") from None


def address_in(text: str) -> str | None:
    """Return the address that *text* states, in its one spelling; None: it is none.

    With a port, in brackets, in quotes, or with a zone it is one, too; an IPv4 address mapped into IPv6 is that.
    """
    text = text.strip().strip('"')
    if text.startswith("["):
        text = text[1:].partition("]")[0]
    elif text.count(":") == 1:
        text = text.partition(":")[0]
    address = _parsed(text.partition("%")[0])
    return None if address is None else str(address)


def _parsed(text: str) -> IPv4Address | IPv6Address | None:
    try:
        address = ip_address(text)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def first_hop(forwarded: str) -> str | None:
    """Return the first address of an X-Forwarded-For header; None: what stands there is none."""
    return address_in(forwarded[:256].partition(",")[0])


def trusted(proxies: tuple[Network, ...]) -> Callable[[str], bool]:
    """Return what tells whether a peer is one of *proxies*."""

    @lru_cache(KNOWN)
    def is_proxy(peer: str) -> bool:
        address = _parsed(peer.partition("%")[0])
        return address is not None and any(address in network for network in proxies)

    return is_proxy


def address_hash(key: bytes | str) -> Callable[[str], str]:
    """Return what hashes an address: HMAC-SHA256 with *key*, of which 16 hex digits are kept.

    Raises:
        ConfigurationError: there is no key. Without one anybody could hash every address there is.
    """
    secret: Any = key.encode() if isinstance(key, str) else key
    if not isinstance(secret, (bytes, bytearray)) or not secret:
        raise ConfigurationError("address_key is a secret, as bytes or text, and not empty")
    secret = bytes(secret)

    @lru_cache(KNOWN)
    def hashed(address: str) -> str:
        one = address_in(address) or address
        return hmac.digest(secret, one.encode("utf-8", "replace"), "sha256").hex()[:16]

    return hashed
