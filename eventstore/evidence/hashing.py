"""What hashes are made of; the twin of ``event_content_v1``, ``event_record_v1`` and ``chain_event_v1``.

The *content* is the digest of data, metadata and tags, with a salt; a stub keeps it in their place. The *record* is
every column in bytes, the content as its digest. The *link* is the digest of the link before it in the stream and of
the record. A row's ``hash`` is salt and link, in a stub content and link, and null while the chain is off.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import NamedTuple
from uuid import UUID

__all__ = ["NONE", "Malformed", "Stored", "content", "digest_of", "link", "record", "running", "stored_link"]

NONE = bytes(32)
"""Stands for the link before the first."""

SALT, DIGEST = 16, 32

UNSALTED = bytes(SALT)
"""Stands for the salt of an event without a hash."""

_head = Struct(">q16sh8s8s32s").pack
_int8 = Struct(">q").pack


class Stored(NamedTuple):
    """An event as ``chain_page_v1`` returns it, with its names; times are the eight bytes that Postgres sends."""

    position: int
    id: UUID
    stream: str | None
    version: int | None
    bucket: int
    type: str
    data: str | None
    metadata: str
    tags: str
    created_at: bytes
    recorded_at: bytes
    hash: bytes | None
    before_position: int | None
    before_hash: bytes | None
    stream_version: int | None
    untagged: bool


@dataclass(frozen=True, slots=True)
class Malformed(Exception):
    """A row that no append and no scavenging leaves behind."""

    what: str


def content(salt: bytes, data: str, metadata: str, tags: str) -> bytes:
    """Return the digest of what scavenging removes; *tags* as the text of a Postgres array."""
    return sha256(salt + f"{data}\0{metadata}\0{tags}".encode()).digest()


def record(row: Stored, digest: bytes) -> bytes:
    """Return every column of a row in bytes, the content as its *digest*.

    Raises:
        Malformed: a part is missing.
    """
    head = _head(row.position, row.id.bytes, row.bucket, row.created_at, row.recorded_at, digest)
    if row.stream is None:
        place = b"\0"
    elif row.version is None:
        raise Malformed("it has a stream and no version")
    else:
        place = b"\1" + _int8(row.version) + row.stream.encode()
    return head + place + b"\0" + row.type.encode()


def link(before: bytes | None, written: bytes) -> bytes:
    """Return the link of a record behind the link *before*; None: it begins a chain."""
    return sha256((before or NONE) + written).digest()


def stored_link(stored: bytes | None) -> bytes | None:
    """Return the link that a row's hash ends with; None: it has none."""
    if stored is None or len(stored) not in (SALT + DIGEST, DIGEST + DIGEST):
        return None
    return stored[-DIGEST:]


def digest_of(row: Stored) -> bytes:
    """Return the digest of a row's content: of what is there, or what its stub kept.

    Raises:
        Malformed: it is neither an event nor a stub.
    """
    size = len(row.hash or b"")
    if row.data is not None:
        if size not in (0, SALT + DIGEST):
            raise Malformed("its hash is not one of an event")
        return content((row.hash or UNSALTED)[:SALT], row.data, row.metadata, row.tags)
    if row.metadata != "{}" or row.tags != "{}":
        raise Malformed("its data is missing, and it is no stub: it has metadata or tags")
    if row.hash is None:
        return NONE  # scavenged before the chain was on for the first time
    if size not in (DIGEST, DIGEST + DIGEST):
        raise Malformed("its data is missing, and it is no stub: the digest of its content is missing too")
    return row.hash[:DIGEST]


def running(before: bytes, written: bytes, stored: bytes | None) -> bytes:
    """Return the digest of everything up to an event: of all *before* it, its record, and its link if it has one."""
    return sha256(before + sha256(written).digest() + (stored_link(stored) or b"")).digest()
