"""Seals: signed statements of what the log held up to a position, one JSON line each, every one naming the one before.

A seal carries the running digest (`hashing.running`) of the events since the seal before it, and up to 64 marks on the
way, so that what breaks it can be told more exactly than "somewhere in here".
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from eventstore.errors import ConfigurationError
from eventstore.evidence.hashing import NONE
from eventstore.evidence.keys import PublicKey, SigningKey

__all__ = ["MARKS", "Mark", "Seal", "append_to", "parse", "read_file", "signed", "unlinked"]

MARKS = 64
"""Marks of a seal, at most."""


class Mark(NamedTuple):
    """A place on the way: up to *position* the seal covers *events* events, of that running digest in hexadecimal."""

    position: int
    events: int
    digest: str


@dataclass(frozen=True, slots=True)
class Seal:
    """A statement of what the log held.

    Attributes:
        number: from 1, without gaps.
        schema: whose log it was.
        after, position: it covers the positions after the one up to the other.
        events: how many events that were.
        total: how many events there were up to `position`.
        marks: in rising order, the last of them at `position`.
        previous: the digest of the seal before it; zeros in the first.
        sealed_at: by the clock of who signed it, UTC, ISO.
        key: name of the key.
        signature: of all the rest, in hexadecimal.
    """

    number: int
    schema: str
    after: int
    position: int
    events: int
    total: int
    marks: tuple[Mark, ...]
    previous: str
    sealed_at: str
    key: str
    signature: str = field(default="", repr=False)

    @property
    def statement(self) -> bytes:
        """What is signed."""
        return _canonical({name: value for name, value in asdict(self).items() if name != "signature"})

    @property
    def line(self) -> str:
        """The seal as one line of JSON."""
        return _canonical(asdict(self)).decode()

    @property
    def digest(self) -> str:
        """What the next seal names it by."""
        return sha256(self.statement).hexdigest()

    @property
    def start(self) -> bytes:
        """What its running digest begins with."""
        return bytes.fromhex(self.previous)

    def signed_by(self, keys: Iterable[PublicKey]) -> bool:
        """Tell whether one of *keys* signed it."""
        return any(key.name == self.key and key.signed(self.statement, bytes.fromhex(self.signature)) for key in keys)


def _canonical(value: dict[str, Any]) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def signed(seal: Seal, key: SigningKey) -> Seal:
    """Return *seal* with the key's signature."""
    unsigned = {name: getattr(seal, name) for name in seal.__dataclass_fields__} | {"key": key.public.name}
    named = Seal(**unsigned)
    return Seal(**unsigned | {"signature": key.sign(named.statement).hex()})


def parse(line: str) -> Seal:
    """Return the seal that a line of JSON holds.

    Raises:
        ConfigurationError: it holds none.
    """
    try:
        found = json.loads(line)
        found["marks"] = tuple(Mark(*mark) for mark in found["marks"])
        seal = Seal(**found)
        # What has another shape would fail much later.
        numbers = [seal.number, seal.after, seal.position, seal.events, seal.total]
        numbers += [number for mark in seal.marks for number in mark[:2]]
        texts = (seal.schema, seal.previous, seal.sealed_at, seal.key, seal.signature)
        if not all(type(one) is int for one in numbers) or not all(type(one) is str for one in texts):
            raise ValueError(line)
        if len(seal.start) != len(NONE) or not seal.marks or seal.marks[-1].position != seal.position:
            raise ValueError(line)
        bytes.fromhex(seal.signature)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise ConfigurationError(f"this is no seal: {line[:80]!r}") from None
    return seal


def read_file(path: str | Path) -> list[Seal]:
    """Return the seals of a file, one a line.

    Raises:
        ConfigurationError: it cannot be read, or a line is no seal.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    return [parse(line) for line in lines if line.strip()]


def append_to(path: str | Path, seals: Iterable[Seal]) -> None:
    """Add seals to a file, one a line; it is made where it is missing (`ConfigurationError`)."""
    try:
        with Path(path).open("a", encoding="utf-8") as file:
            file.writelines(f"{seal.line}\n" for seal in seals)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


def unlinked(seals: Sequence[Seal]) -> Iterator[tuple[Seal, str]]:
    """Yield seals that do not follow the one before them, and why not."""
    for before, seal in zip([None, *seals], seals, strict=False):
        if before is None:
            if seal.number == 1 and (seal.after, seal.start) != (0, NONE):
                yield seal, "the first seal does not begin with the log"
        elif seal.number != before.number + 1:
            yield seal, f"seal {before.number + 1} is missing"
        elif (seal.previous, seal.after) != (before.digest, before.position):
            yield seal, "it does not follow the seal before it"
        elif seal.total != before.total + seal.events or seal.position < before.position:
            yield seal, "its counts do not follow from those of the seal before it"
