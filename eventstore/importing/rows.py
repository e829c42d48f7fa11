"""From a file to rows: CSV or NDJSON, plain or gzipped, one record in memory at a time.

A record that cannot be read comes out as a `Reject` between the rows, so that whoever reads decides whether to stop.
What ends the file itself (a damaged archive, no header) raises.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, cast

from eventstore.codec import decode
from eventstore.errors import ConfigurationError, ImportFailed

__all__ = ["Format", "Reject", "Row", "RowFile", "format_of", "open_rows"]

Format = Literal["csv", "ndjson"]

MAX_LINE = 16 << 20
"""Bytes of one physical line; far above what an event may hold, far below what would exhaust memory."""

MAX_CELL = 4 << 20
"""Characters of one CSV cell. It ends what an unclosed quote would otherwise swallow: the rest of the file."""

_ENDINGS: dict[str, Format] = {".csv": "csv", ".ndjson": "ndjson", ".jsonl": "ndjson"}


@dataclass(frozen=True, slots=True)
class Row:
    """One record: its columns by name, the line it starts on, and its text as it stands in the file.

    Attributes:
        typed: the values have the types of JSON; otherwise they are the text of cells.
    """

    line: int
    columns: dict[str, Any]
    raw: str
    typed: bool


@dataclass(frozen=True, slots=True)
class Reject:
    """A record that becomes no event, and why."""

    line: int
    reason: str
    raw: str


def format_of(file: str) -> Format:
    """Return the format a file's name promises: .csv, .ndjson or .jsonl, each also with .gz.

    Raises:
        ConfigurationError: the name ends otherwise.
    """
    ending = PurePath(file.lower().removesuffix(".gz")).suffix
    if ending not in _ENDINGS:
        what = "standard input" if file == "-" else f"{file!r} from its name"
        raise ConfigurationError(f"cannot tell the format of {what}; give --format csv or ndjson")
    return _ENDINGS[ending]


@contextmanager
def open_rows(file: str, format: Format | None = None, *, delimiter: str = ",") -> Iterator[RowFile]:
    """Open *file* (``-``: standard input) for one walk over its rows.

    Raises:
        ConfigurationError: the file cannot be opened, or its format is not known.
        ImportFailed: it is a CSV file without a header.
    """
    format = format or format_of(file)
    try:
        raw = sys.stdin.buffer if file == "-" else open(file, "rb")  # noqa: SIM115
    except OSError as error:
        raise ConfigurationError(f"cannot open {file}: {error.strerror}") from None
    try:
        yield RowFile("standard input" if file == "-" else file, cast(io.BufferedReader, raw), format, delimiter)
    finally:
        if file != "-":
            raw.close()


class RowFile:
    """The rows of one open file; iterate once.

    Attributes:
        name: how errors call the file.
        header: the columns of a CSV file; None for NDJSON, where each row brings its own.
        size: bytes of the file as it is stored; None where that is not known.
        unseen: of these columns, those no NDJSON row has had so far.
    """

    def __init__(self, name: str, file: io.BufferedReader, format: Format, delimiter: str = ",") -> None:
        self.name, self._file = name, file
        self._seekable = file.seekable()
        self.size = _size(file) if self._seekable else None
        self.unseen: set[str] = set()
        self._lines = _Lines(name, _unpacked(file))
        self.header: list[str] | None = None
        if format == "csv":
            self._csv = self._open_csv(delimiter)

    @property
    def bytes_read(self) -> int:
        """How far the file has been read, in bytes as it is stored (of a pipe: as unpacked)."""
        return self._file.tell() if self._seekable else self._lines.bytes_read

    def __iter__(self) -> Iterator[Row | Reject]:
        return self._ndjson_rows() if self.header is None else self._csv_rows(self.header)

    def _open_csv(self, delimiter: str) -> Iterator[list[str]]:
        # The limit is the process's; it is only ever raised.
        csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL))
        reader = csv.reader(self._lines, strict=True, delimiter=delimiter)
        self._lines.begin()
        try:
            self.header = next(reader, [])
        except csv.Error as error:
            raise ImportFailed(self.name, 1, f"the header is unreadable: {error}") from None
        self._check_header(self.header)
        return reader

    def _check_header(self, header: list[str]) -> None:
        if not header:
            raise ImportFailed(self.name, 1, "there is no header; the first line of a CSV file names its columns")
        if reason := self._lines.problem():
            raise ImportFailed(self.name, 1, f"the header is unreadable: {reason}")
        if twice := sorted({column for column in header if header.count(column) > 1}):
            raise ImportFailed(self.name, 1, f"the header names {twice[0]!r} twice")

    def _csv_rows(self, header: list[str]) -> Iterator[Row | Reject]:
        lines = self._lines
        while True:
            start = lines.begin()
            try:
                cells = next(self._csv)
            except StopIteration:
                return
            except csv.Error as error:
                yield Reject(start, f"invalid CSV: {error}", lines.raw)
                continue
            if reason := lines.problem():
                yield Reject(start, reason, lines.raw)
            elif len(cells) == len(header):
                yield Row(start, dict(zip(header, cells, strict=True)), lines.raw, typed=False)
            elif cells:  # an empty line is none
                yield Reject(start, f"{len(cells)} cells, but the header has {len(header)}", lines.raw)

    def _ndjson_rows(self) -> Iterator[Row | Reject]:
        lines = self._lines
        start = lines.begin()
        for text in lines:
            if reason := lines.problem():
                yield Reject(start, reason, lines.raw)
            elif text and not text.isspace():
                yield self._ndjson_row(start, text)
            start = lines.begin()

    def _ndjson_row(self, line: int, text: str) -> Row | Reject:
        try:
            value = decode(text)
        except (ValueError, RecursionError) as error:
            return Reject(line, f"invalid JSON: {error}", text)
        if not isinstance(value, dict):
            return Reject(line, f"a JSON object is needed, this is {type(value).__name__}", text)
        if self.unseen:
            self.unseen -= value.keys()
        return Row(line, value, text, typed=True)


def _size(file: io.BufferedReader) -> int:
    begin = file.tell()
    size = file.seek(0, io.SEEK_END)
    file.seek(begin)
    return size


def _unpacked(file: io.BufferedReader) -> BinaryIO:
    """Return *file*, unpacked if its content (not its name) says it is gzipped."""
    if file.peek(2)[:2] != b"\x1f\x8b":
        return file
    return cast(BinaryIO, gzip.GzipFile(fileobj=file))


class _Lines:
    """Physical lines, decoded and counted; those since `begin` are kept, for the record's text and its faults.

    Bytes that are no UTF-8 become lone surrogates, which UTF-8 itself cannot hold: so `problem` tells them apart, and
    the record's bytes can be given back.
    """

    def __init__(self, name: str, file: BinaryIO) -> None:
        self._name, self._file = name, file
        self._number = 0
        self._taken: list[str] = []
        self._too_long = False
        self.bytes_read = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._read()
        if not line:
            raise StopIteration
        if self._number == 0:
            line = self._without_mark(line)
        self._number += 1
        text = line.decode("utf-8", "surrogateescape")
        self._taken.append(text)
        return text

    def begin(self) -> int:
        """Forget the last record; return the number of the line the next one starts on."""
        self._taken.clear()
        self._too_long = False
        return self._number + 1

    @property
    def raw(self) -> str:
        """Text of the record."""
        return "".join(self._taken)

    def problem(self) -> str | None:
        """Return why the record's text is unusable."""
        if self._too_long:
            return f"a line is longer than {MAX_LINE >> 20} MiB"
        for text in self._taken:
            if "\0" in text:
                return "NUL (U+0000) cannot be stored"
            if not text.isascii() and not _encodable(text):
                return "invalid UTF-8"
        return None

    def _read(self) -> bytes:
        try:
            line = self._file.readline(MAX_LINE)
            self.bytes_read += len(line)
            if len(line) == MAX_LINE and not line.endswith(b"\n"):
                self._skip_rest_of_line()
        except (EOFError, zlib.error, OSError) as error:
            reason = f"the file is damaged or cut off: {error}"
            raise ImportFailed(self._name, self._number + 1, reason) from error
        return line

    def _skip_rest_of_line(self) -> None:
        self._too_long = True
        while (rest := self._file.readline(MAX_LINE)) and not rest.endswith(b"\n"):
            self.bytes_read += len(rest)

    def _without_mark(self, line: bytes) -> bytes:
        if line.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ImportFailed(self._name, 1, "the file is UTF-16; convert it: iconv -f utf-16 -t utf-8")
        return line.removeprefix(codecs.BOM_UTF8)


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
