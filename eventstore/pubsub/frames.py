"""Envelopes as signed texts of bounded size, for ways that carry text: NOTIFY of Postgres, PUBLISH of Redis.

A text is ``1`` (the version), a kind, 22 characters of MAC, a nonce, a dot and the body. Kinds are ``j``: the body is a
JSON array of envelopes; ``z``: the same, compressed; ``s``: it was too large, and the body says where it is stored. The
MAC covers kind, nonce and body. The nonce keeps equal broadcasts apart, which Postgres would collapse in a transaction.
"""

from __future__ import annotations

import hmac
import secrets
import zlib
from base64 import b64decode, b64encode, urlsafe_b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from itertools import count
from typing import Any
from uuid import UUID, uuid4

import orjson

from eventstore.errors import ConfigurationError, InvalidMessage
from eventstore.pubsub.adapter import Envelope

__all__ = ["LARGE", "MAX_MESSAGE_BYTES", "Frame", "Frames", "Prepared", "Rejected", "Spill", "Spilled"]

MAX_MESSAGE_BYTES = 16 * 1024 * 1024
"""Of one encoded envelope, before compression."""

LARGE = 256 * 1024
"""Characters of message and topic from which an envelope is worth a thread that prepares it."""

_VERSION = b"1"
_MAC_SIZE = 16
_SIGNED_FROM = 24  # version, kind, MAC
_HEAD = _SIGNED_FROM + 8 + 16 + 1  # a nonce of 8 random digits and at most 16 of the counter, and the dot
_SPILLED = 64  # hex digits of an id and of a digest
_UNBOUNDED_ROOM = 8192
_MODES = ("except", "only", "all")


class Rejected(Exception):
    """What arrived is no frame of this cluster: forged, foreign, cut, or of another version. The text says which."""


@dataclass(frozen=True, slots=True)
class Spill:
    """A body too large for a frame, to be stored under *id* and fetched by who unpacks the frame."""

    id: UUID
    body: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """A text to be sent, of at most `limit` bytes of UTF-8, once its *spill* is stored."""

    text: str
    spill: Spill | None = None


@dataclass(frozen=True, slots=True)
class Spilled:
    """What `Frames.unpack` found instead of envelopes: fetch the body of *id* and give it to `Frames.unspill`."""

    id: UUID
    digest: bytes


@dataclass(frozen=True, slots=True)
class Prepared(Envelope):
    """A large envelope as `Frames.prepare` made it: compressed ahead, the message left out."""

    packed: bytes = b""
    digest: bytes = b""


class Frames:
    """Packs envelopes into signed texts, and unpacks what verifies.

    Args:
        key: secret shared by all nodes, of any length.
        limit: bytes of UTF-8 that a text may have; None: any number, so nothing is spilled.
        most: bytes that one encoded envelope may have.

    Raises:
        ConfigurationError: the key is empty, or the limit leaves no room for a spill's name.
    """

    def __init__(self, key: bytes, *, limit: int | None = 7_999, most: int = MAX_MESSAGE_BYTES) -> None:
        if not key:
            raise ConfigurationError("frames are signed with a key that is not empty")
        if limit is not None and limit < _HEAD + _SPILLED:
            raise ConfigurationError(f"a frame needs at least {_HEAD + _SPILLED} bytes, not {limit}")
        self._limit, self._most = limit, most
        self._room = _UNBOUNDED_ROOM if limit is None else limit - _HEAD
        # BLAKE2 takes keys of 64 bytes at most; its hash is as good a key as the original.
        self._keyed = blake2b(key=blake2b(key).digest(), digest_size=_MAC_SIZE)
        self._nonce, self._counter = secrets.token_hex(4).encode(), count()

    def check(self, envelope: Envelope) -> None:
        """Refuse what `pack` would refuse.

        Raises:
            InvalidMessage: the encoded envelope is larger than *most*, or holds a lone surrogate.
        """
        self._encoded(envelope)

    def prepare(self, envelope: Envelope) -> Prepared:
        """Do the slow part of packing a large *envelope*; may run in any thread.

        Raises:
            InvalidMessage: as `check`.
        """
        packed = _compressed(_array([self._encoded(envelope)]))
        rest = {name: getattr(envelope, name) for name in Envelope.__slots__ if name != "message"}
        return Prepared(**rest, message="", packed=packed, digest=_digest(packed))

    # -- packing

    def pack(self, envelopes: Sequence[Envelope]) -> list[Frame]:
        """Return texts that hold *envelopes* in their order; small ones share a text.

        Raises:
            InvalidMessage: one of them does not pass `check`; nothing was packed.
        """
        frames: list[Frame] = []
        batch: list[bytes] = []
        left = room = self._room - 1  # one bracket; the other one counts as a comma
        for envelope in envelopes:
            encoded = b"" if isinstance(envelope, Prepared) else self._encoded(envelope)
            size = len(encoded) + 1 if encoded else room + 1
            if size > left:
                if batch:
                    frames.append(self._small(batch))
                batch, left = [], room
            if isinstance(envelope, Prepared):
                frames.append(self._compressed(envelope.packed, envelope.digest))
            elif size > room:
                frames.append(self._large(_array([encoded])))
            else:
                batch.append(encoded)
                left -= size
        if batch:
            frames.append(self._small(batch))
        return frames

    def _encoded(self, envelope: Envelope) -> bytes:
        fields = (envelope.mode, envelope.node, envelope.origin, envelope.topic, envelope.dispatcher, envelope.message)
        try:
            encoded = orjson.dumps(fields)
        except TypeError as error:
            raise InvalidMessage(f"an envelope on topic {envelope.topic!a} cannot be encoded: {error}") from None
        if len(encoded) > self._most:
            raise InvalidMessage(
                f"a message on topic {envelope.topic!r} takes {len(encoded):,} bytes; {self._most:,} are the most"
            )
        return encoded

    def _small(self, batch: list[bytes]) -> Frame:
        return Frame(self._signed(b"j", _array(batch)))

    def _large(self, body: bytes) -> Frame:
        packed = _compressed(body)
        if self._limit is None and _size_as_text(packed) >= len(body):
            return Frame(self._signed(b"j", body))
        return self._compressed(packed, None)

    def _compressed(self, packed: bytes, digest: bytes | None) -> Frame:
        if self._limit is None or _size_as_text(packed) <= self._room:
            return Frame(self._signed(b"z", b64encode(packed)))
        spill = Spill(uuid4(), packed)
        return Frame(self._signed(b"s", (spill.id.hex + (digest or _digest(packed)).hex()).encode()), spill)

    def _signed(self, kind: bytes, body: bytes) -> str:
        signed = b"%b%x.%b" % (self._nonce, next(self._counter), body)
        return b"".join((_VERSION, kind, self._mac(kind, signed), signed)).decode()

    def _mac(self, kind: bytes, signed: bytes) -> bytes:
        mac = self._keyed.copy()
        mac.update(kind)
        mac.update(signed)
        return urlsafe_b64encode(mac.digest())[:22]

    # -- unpacking

    def unpack(self, text: str) -> list[Envelope] | Spilled:
        """Return the envelopes in *text*, in the order they were packed, or where their body is stored.

        Raises:
            Rejected: *text* is none that `pack` made with this key.
        """
        kind, body = self._verified(text)
        try:
            if kind == b"s":
                return _spilled(body.decode())
            return _envelopes(body if kind == b"j" else self._inflated(b64decode(body, validate=True)))
        except (ValueError, zlib.error) as error:
            raise Rejected(f"malformed body: {error}") from error

    def unspill(self, spilled: Spilled, body: bytes) -> list[Envelope]:
        """Return the envelopes in *body*, which was stored under the id of *spilled*.

        Raises:
            Rejected: it is not the body that was stored.
        """
        if not hmac.compare_digest(_digest(body), spilled.digest):
            raise Rejected(f"the stored body {spilled.id} was changed")
        try:
            return _envelopes(self._inflated(body))
        except (ValueError, zlib.error) as error:
            raise Rejected(f"malformed body {spilled.id}: {error}") from error

    def _verified(self, text: str) -> tuple[bytes, bytes]:
        try:
            data = text.encode()
        except UnicodeEncodeError:
            raise Rejected("not UTF-8") from None
        if data[:1] != _VERSION:
            raise Rejected(f"version {text[:1]!a}, not {_VERSION.decode()!r}: from another release, or no frame at all")
        kind, signed = data[1:2], data[_SIGNED_FROM:]
        if not hmac.compare_digest(data[2:_SIGNED_FROM], self._mac(kind, signed)):
            raise Rejected("wrong signature: cut, forged, or signed with another key")
        _, dot, body = signed.partition(b".")
        if kind not in (b"j", b"z", b"s") or not dot:
            raise Rejected(f"unknown kind {kind!r}, or no body")
        return kind, body

    def _inflated(self, packed: bytes) -> bytes:
        most = self._most + 2  # the brackets
        inflater = zlib.decompressobj()
        body = inflater.decompress(packed, most + 1)
        if len(body) > most:
            raise ValueError(f"larger than {most:,} bytes")
        if not inflater.eof or inflater.unused_data:
            raise ValueError("cut, or followed by something")
        return body


def _array(encoded: list[bytes]) -> bytes:
    return b"[%b]" % b",".join(encoded)


def _compressed(body: bytes) -> bytes:
    # The fastest level: somebody waits for it, be it the event loop.
    return zlib.compress(body, 1)


def _size_as_text(packed: bytes) -> int:
    """Return the size of *packed* in base64."""
    return (len(packed) + 2) // 3 * 4


def _digest(body: bytes) -> bytes:
    return blake2b(body, digest_size=16).digest()


def _spilled(body: str) -> Spilled:
    if len(body) != _SPILLED:
        raise ValueError(f"the name of a spill has {_SPILLED} digits, not {len(body)}")
    return Spilled(UUID(hex=body[:32]), bytes.fromhex(body[32:]))


def _envelopes(body: bytes) -> list[Envelope]:
    found = orjson.loads(body)
    if type(found) is not list:
        raise ValueError("not an array")
    return [_envelope(fields) for fields in found]


def _envelope(fields: Any) -> Envelope:
    if type(fields) is not list or len(fields) != 6:
        raise ValueError("an envelope has 6 fields")
    mode, node, origin, topic, dispatcher, message = fields
    if mode not in _MODES:
        raise ValueError("unknown mode")
    if not type(node) is type(origin) is type(topic) is type(message) is str:
        raise ValueError("a field is not a string")
    if dispatcher is not None and type(dispatcher) is not str:
        raise ValueError("the dispatcher is not a string")
    return Envelope(mode, node, origin, topic, message, dispatcher)
