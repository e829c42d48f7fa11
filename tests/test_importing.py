from __future__ import annotations

import csv
import gzip
import io
import json
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid5

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eventstore import DuplicateEventId, EventStore, NewEvent
from eventstore.errors import ConfigurationError, ImportFailed, InvalidEvent
from eventstore.importing import (
    NAMESPACE,
    ColumnMapping,
    DerivedIds,
    Exported,
    Imported,
    Mapped,
    Reject,
    Row,
    RowFile,
    format_of,
    import_rows,
    inferred,
    map_rows,
    open_rows,
    to_time,
)
from eventstore.importing import batches as batching
from eventstore.importing import rows as reading

PLAIN = ColumnMapping(stream="case", type="activity")


def csv_file(content: str | bytes, **options: Any) -> RowFile:
    stored = content if isinstance(content, bytes) else content.encode()
    return RowFile("log.csv", io.BufferedReader(io.BytesIO(stored)), "csv", **options)  # type: ignore[arg-type]


def ndjson_file(*records: Any) -> RowFile:
    lines = (one if isinstance(one, bytes) else json.dumps(one).encode() for one in records)
    return RowFile("log.ndjson", io.BufferedReader(io.BytesIO(b"\n".join(lines))), "ndjson")  # type: ignore[arg-type]


def mapped(rows: RowFile, mapping: ColumnMapping | Exported = PLAIN) -> list[Mapped]:
    found = list(map_rows(rows, mapping))
    assert not [one for one in found if isinstance(one, Reject)], found
    return [one for one in found if isinstance(one, Mapped)]


def rejects(rows: RowFile, mapping: ColumnMapping | Exported = PLAIN) -> list[tuple[int, str]]:
    return [(one.line, one.reason) for one in map_rows(rows, mapping) if isinstance(one, Reject)]


def event_of(rows: RowFile, mapping: ColumnMapping | Exported = PLAIN) -> NewEvent:
    (one,) = mapped(rows, mapping)
    return one.event


# -- rows


def test_a_csv_row_has_its_columns_and_the_line_it_starts_on() -> None:
    rows = csv_file('case,activity,note\nc1,Opened,"two\nlines"\nc2,Closed,\n')
    assert [(one.row.line, one.stream, one.event.data) for one in mapped(rows)] == [
        (2, "c1", {"case": "c1", "activity": "Opened", "note": "two\nlines"}),
        (4, "c2", {"case": "c2", "activity": "Closed"}),
    ]


def test_a_byte_order_mark_is_no_part_of_the_first_column() -> None:
    assert csv_file(b"\xef\xbb\xbfcase,activity\nc1,Opened\n").header == ["case", "activity"]


def test_empty_lines_are_no_rows() -> None:
    assert len(mapped(csv_file("case,activity\n\nc1,Opened\r\n\r\n"))) == 1
    assert len(mapped(ndjson_file({"case": "c1", "activity": "Opened"}, b"", b"  "))) == 1


def test_another_delimiter_can_be_named() -> None:
    assert event_of(csv_file("case;activity\nc1;Opened, late\n", delimiter=";")).type == "Opened, late"


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (b"c1", "1 cells, but the header has 2"),
        (b"c1,Opened,extra", "3 cells, but the header has 2"),
        (b",Opened", r"the stream is empty \(column 'case'\)"),
        (b"c1,", r"the type is empty \(column 'activity'\)"),
        (b"c1,Ope\0ned", "NUL"),
        (b"c1,Ope\xffned", "invalid UTF-8"),
        (b"c1,Ope\xed\xa0\x80ned", "invalid UTF-8"),
        (b'c1,"Ope"ned', "invalid CSV"),
        (b"c1," + b"x" * 513, "event type must not be longer than 512"),
        (b"x" * 513 + b",Opened", "stream name must not be longer than 512"),
    ],
)
def test_a_malformed_csv_row_is_rejected_with_its_line_and_the_reason(row: bytes, reason: str) -> None:
    rows = csv_file(b"case,activity\nc0,Opened\n" + row + b"\nc2,Opened\n")
    before, bad, after = list(map_rows(rows, PLAIN))
    assert isinstance(bad, Reject)
    assert bad.line == 3
    assert re.search(reason, bad.reason)
    assert isinstance(before, Mapped)
    assert isinstance(after, Mapped)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b'{"case": "c1", ', "invalid JSON"),
        (b"[" * 100_000 + b"1" * 20, "invalid JSON"),
        (b'["c1", "Opened"]', "a JSON object is needed, this is list"),
        (b'{"case": "c1"}', "the type is empty"),
        (b'{"case": {"id": 1}, "activity": "Opened"}', "holds a dict; a string or a number is needed"),
        (rb'{"case": "c1", "activity": "Opened", "note": "\u0000"}', r"row\.note: NUL"),
        (rb'{"case": "c1", "activity": "Opened", "note": "\ud800"}', "surrogate"),
        (b'{"case": "c1", "activity": "Opened", "n": [NaN, 12345678901234567890]}', "nan is no JSON number"),
        (b'{"case": "c1", "activity": "\xff"}', "invalid UTF-8"),
    ],
)
def test_a_malformed_ndjson_line_is_rejected_with_its_line_and_the_reason(line: bytes, reason: str) -> None:
    ((number, found),) = rejects(ndjson_file({"case": "c0", "activity": "Opened"}, line))
    assert number == 2
    assert re.search(reason, found)


def test_an_event_above_the_size_limit_is_rejected() -> None:
    ((line, reason),) = rejects(csv_file("case,activity,note\nc1,Opened," + "x" * (1 << 20) + "\nc2,Opened,\n"))
    assert (line, "the limit is 1,048,576" in reason) == (2, True)


def test_an_unclosed_quote_is_rejected_instead_of_swallowing_the_rest_unseen() -> None:
    ((line, reason),) = rejects(csv_file('case,activity\nc1,"Opened\nc2,Opened\nc3,Opened\n'))
    assert (line, reason) == (2, "invalid CSV: unexpected end of data")


def test_a_line_too_long_to_hold_is_rejected_and_the_next_one_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_LINE", 64)
    found = list(map_rows(csv_file("case,activity\nc1," + "x" * 200 + "\nc2,Opened\n"), PLAIN))
    assert [type(one) for one in found] == [Reject, Mapped]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "there is no header"),
        (b"\n", "there is no header"),
        (b"case,activity,case\n", "names 'case' twice"),
        (b"case,\xff\n", "header is unreadable: invalid UTF-8"),
        ("case,activity\n".encode("utf-16"), "the file is UTF-16"),
    ],
)
def test_a_csv_file_without_a_usable_header_is_refused(content: bytes, reason: str) -> None:
    with pytest.raises(ImportFailed, match=reason):
        csv_file(content)


def test_a_mapping_that_names_a_missing_column_is_refused_with_those_there_are() -> None:
    with pytest.raises(ImportFailed, match="no column 'when'; the columns are 'case', 'activity'"):
        list(map_rows(csv_file("case,activity\n"), ColumnMapping(stream="case", type="activity", time="when")))


def test_columns_that_no_ndjson_row_has_are_remembered() -> None:
    rows = ndjson_file({"case": "c1", "activity": "Opened"})
    mapped(rows, ColumnMapping(stream="case", type="activity", tags=("grup",)))
    assert rows.unseen == {"grup"}


def test_gzipped_files_are_recognised_by_their_content(tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    file.write_bytes(gzip.compress(b"case,activity\nc1,Opened\n"))
    with open_rows(str(file)) as rows:
        assert mapped(rows)[0].stream == "c1"


def test_a_gzipped_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "log.csv.gz"
    content = "".join(f"c{number},{number * 7919 % 100_003}\n" for number in range(20_000))
    file.write_bytes(gzip.compress(f"case,activity\n{content}".encode())[:-200])
    with open_rows(str(file)) as rows, pytest.raises(ImportFailed, match="damaged or cut off") as caught:
        list(rows)
    assert caught.value.line > 1


@pytest.mark.parametrize(("name", "format"), [("a.csv", "csv"), ("a.CSV.GZ", "csv"), ("a.jsonl", "ndjson")])
def test_the_name_tells_the_format(name: str, format: str) -> None:
    assert format_of(name) == format


def test_a_file_whose_format_is_not_known_or_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="--format"), open_rows("log.txt"):
        pass
    with pytest.raises(ConfigurationError, match="cannot open"), open_rows("nowhere.csv"):
        pass


# -- mapping


def test_columns_become_the_parts_of_the_event() -> None:
    mapping = ColumnMapping(
        stream="case",
        type="activity",
        time="at",
        tags=("group", "user"),
        data=("cost",),
        metadata=("user",),
        stream_prefix="case-",
    )
    (one,) = mapped(
        csv_file("case,activity,at,group,user,cost\n7,Opened,2011-10-11 13:45:40.276+02:00,G 1,,9\n"), mapping
    )
    assert one.stream == "case-7"
    assert one.event.type == "Opened"
    assert one.event.created_at == datetime(2011, 10, 11, 11, 45, 40, 276000, UTC)
    assert (one.event.data, one.event.metadata, one.event.tags) == ({"cost": "9"}, {}, ("group:G 1",))


def test_ndjson_values_keep_their_types_and_a_list_gives_one_tag_an_item() -> None:
    record = {
        "case": 7,
        "activity": "Opened",
        "group": ["a", "", 3, True, None],
        "n": 2**80,
        "f": 1e16,
        "e": "",
        "z": None,
    }
    event = event_of(ndjson_file(record), ColumnMapping(stream="case", type="activity", tags=("group",)))
    assert event.tags == ("group:a", "group:3", "group:true")
    assert event.data == record
    assert type(event.data["f"]) is float


@pytest.mark.parametrize(
    ("text", "time"),
    [
        ("2011-10-11 13:45:40.276000+02:00", datetime(2011, 10, 11, 11, 45, 40, 276000, UTC)),
        ("2011-10-11T13:45:40Z", datetime(2011, 10, 11, 13, 45, 40, tzinfo=UTC)),
        ("2011-10-11 13:45", datetime(2011, 10, 11, 13, 45, tzinfo=UTC)),
        ("2011-10-11", datetime(2011, 10, 11, tzinfo=UTC)),
    ],
)
def test_times_are_iso_8601_and_utc_without_a_zone(text: str, time: datetime) -> None:
    assert to_time(text) == time


@pytest.mark.parametrize("text", ["", None, "yesterday", "11/10/2011", 1318333540, "0001-01-01T00:00:00+01:00"])
def test_what_is_no_time_is_refused(text: Any) -> None:
    with pytest.raises(InvalidEvent, match="the time"):
        to_time(text)


@pytest.mark.parametrize(
    ("cell", "value"),
    [
        ("12", 12),
        ("-3", -3),
        ("1.50", 1.5),
        ("1e3", 1000.0),
        ("123456789012345678901234567890", 123456789012345678901234567890),
        ("true", True),
        ("FALSE", False),
        ("null", None),
        *(
            (text, text)
            for text in ("007", "+1", "1_000", "0x1f", "1e999", "nan", "NULL", " 1", "١", "1.", ".5", "9" * 4301)
        ),
    ],
)
def test_inference_reads_what_json_would_and_leaves_the_rest_alone(cell: str, value: Any) -> None:
    assert (inferred(cell), type(inferred(cell))) == (value, type(value))


def test_cells_are_inferred_only_when_asked_and_tags_keep_their_text() -> None:
    mapping = ColumnMapping(stream="case", type="activity", tags=("n",), infer_types=True)
    content = "case,activity,n,empty\n1,Opened,1.50,\n"
    assert event_of(csv_file(content), mapping).data == {"case": 1, "activity": "Opened", "n": 1.5}
    assert event_of(csv_file(content), mapping).tags == ("n:1.50",)
    assert event_of(csv_file(content)).data == {"case": "1", "activity": "Opened", "n": "1.50"}


def test_inference_is_refused_for_ndjson_and_exported_for_csv() -> None:
    with pytest.raises(ConfigurationError, match="infer-types"):
        mapped(ndjson_file({}), ColumnMapping(stream="case", type="activity", infer_types=True))
    with pytest.raises(ConfigurationError, match="exported"):
        mapped(csv_file("id,stream\n"), Exported())


# -- ids

cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=3)
tables = st.lists(st.tuples(cells, cells), max_size=20)


def ids_of(table: list[tuple[str, str]]) -> list[Any]:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerows([("case", "note"), *table])
    rows = csv_file(text.getvalue())
    derived = DerivedIds()
    return [derived.next(row.columns) for row in rows if isinstance(row, Row)]


@given(tables, tables)
def test_rows_derive_distinct_ids_that_come_again_and_stay_when_the_file_grows(
    table: list[tuple[str, str]], more: list[tuple[str, str]]
) -> None:
    ids = ids_of(table)
    assert len(set(ids)) == len(ids) == len(table)
    assert ids_of(table) == ids
    assert ids_of(table + more)[: len(ids)] == ids


def test_an_id_is_the_uuid5_of_the_content_and_of_how_often_it_came_before() -> None:
    ids = [one.event.id for one in mapped(csv_file("case,activity\nc1,Opened\nc1,Opened\n"))]
    content = '{"activity":"Opened","case":"c1"}'
    assert ids == [uuid5(NAMESPACE, f"{content}\n0"), uuid5(NAMESPACE, f"{content}\n1")]


def test_neither_mapping_nor_column_order_nor_format_enters_the_id() -> None:
    one = event_of(csv_file("case,activity,n\nc1,Opened,1\n"))
    other = event_of(csv_file("\nn,activity,case\n"[1:] + "1,Opened,c1\n"), ColumnMapping(stream="n", type="case"))
    third = event_of(ndjson_file({"n": "1", "case": "c1", "activity": "Opened"}))
    assert one.id == other.id == third.id


# -- into the log


def numbered(count: int, start: int = 0) -> str:
    return "case,activity,n\n" + "".join(f"c{number % 3},Opened,{number}\n" for number in range(start, count))


async def imported(store: EventStore, content: str, **options: Any) -> Imported:
    options.setdefault("batch_size", 4)
    return await import_rows(csv_file(content), PLAIN, store.append_known, **options)


async def numbers(store: EventStore) -> list[str]:
    return [event.data["n"] async for event in store.read_all()]


async def test_row_order_becomes_position_order_across_streams_and_batches(store: EventStore) -> None:
    done = await imported(store, numbered(11))
    assert (done.rows, done.added, done.known, done.rejected) == (11, 11, 0, 0)
    assert await numbers(store) == [str(number) for number in range(11)]


async def test_importing_again_adds_nothing_and_a_longer_file_only_what_is_new(store: EventStore) -> None:
    await imported(store, numbered(6))
    again = await imported(store, numbered(6))
    longer = await imported(store, numbered(9), batch_size=2)
    assert [(again.added, again.known), (longer.added, longer.known)] == [(0, 6), (3, 6)]
    assert await numbers(store) == [str(number) for number in range(9)]


async def test_equal_rows_are_different_events(store: EventStore) -> None:
    content = "case,activity,n\n" + "c1,Opened,1\n" * 9
    assert (await imported(store, content)).added == 9
    assert (await imported(store, content)).added == 0


async def test_a_malformed_row_stops_and_leaves_nothing_of_its_batch(store: EventStore) -> None:
    broken = numbered(6) + "c1\n" + numbered(9, start=6).split("\n", 1)[1]
    with pytest.raises(ImportFailed, match=r"line 8: 1 cells.*The 4 rows before its batch are imported \(4 events"):
        await imported(store, broken)
    assert await numbers(store) == ["0", "1", "2", "3"]
    assert (await imported(store, numbered(9))).added == 5


async def test_malformed_rows_are_handed_over_where_that_is_asked(store: EventStore) -> None:
    collected: list[Reject] = []
    broken = numbered(3) + "c1\n" + numbered(9, start=3).split("\n", 1)[1]
    done = await imported(store, broken, on_reject=collected.append)
    assert (done.rows, done.added, done.rejected) == (10, 9, 1)
    assert collected == [Reject(5, "1 cells, but the header has 3", "c1\n")]


async def test_a_known_row_under_another_mapping_is_refused_with_its_line(store: EventStore) -> None:
    await imported(store, numbered(6))
    other = ColumnMapping(stream="case", type="activity", data=("n",))
    rows = csv_file("case,activity,n\nnew,Opened,x\n" + numbered(6).split("\n", 1)[1])
    with pytest.raises(DuplicateEventId, match=r"log\.csv, line \d: .*another mapping") as caught:
        await import_rows(rows, other, store.append_known)
    assert 3 <= int(re.findall(r"line (\d)", str(caught.value))[0]) <= 8
    assert len(await numbers(store)) == 6


async def stored_again(store: EventStore, rows: RowFile, mapping: ColumnMapping) -> tuple[int, int]:
    done = await import_rows(rows, mapping, store.append_known)
    return done.added, done.known


@pytest.mark.parametrize("data", [("*",), ("n", "case")])
async def test_a_csv_file_with_its_columns_in_another_order_is_known(store: EventStore, data: tuple[str, ...]) -> None:
    mapping = ColumnMapping(stream="case", type="activity", data=data, metadata=data, tags=("n",))
    await stored_again(store, csv_file("case,activity,n\nc1,Opened,1\nc2,Opened,2\n"), mapping)
    shuffled = csv_file("n,case,activity\n1,c1,Opened\n2,c2,Opened\n")
    assert await stored_again(store, shuffled, mapping) == (0, 2)


async def test_ndjson_rows_with_their_keys_in_another_order_are_known(store: EventStore) -> None:
    first = ndjson_file(b'{"case": "c1", "activity": "Opened", "n": [{"a": 1, "b": 2}]}')
    other = ndjson_file(b'{"n": [{"b": 2, "a": 1}], "activity": "Opened", "case": "c1"}')
    await stored_again(store, first, PLAIN)
    assert await stored_again(store, other, PLAIN) == (0, 1)


async def test_options_in_another_order_or_given_twice_make_no_other_events(store: EventStore) -> None:
    content = "case,activity,n,m\nc1,Opened,1,2\n"
    parts: tuple[dict[str, tuple[str, ...]], ...] = (
        {"tags": ("n", "m"), "data": ("n", "m"), "metadata": ("case", "n")},
        {"tags": ("m", "n", "m"), "data": ("m", "n", "m"), "metadata": ("n", "case")},
    )
    first, other = (ColumnMapping(stream="case", type="activity", **columns) for columns in parts)
    await stored_again(store, csv_file(content), first)
    assert await stored_again(store, csv_file(content), other) == (0, 1)


async def test_large_events_end_a_batch_early(store: EventStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "MAX_BATCH_CHARACTERS", 100)
    sizes: list[int] = []
    await imported(store, numbered(9), batch_size=50, on_batch=lambda batch, _: sizes.append(len(batch.mapped)))
    assert sizes == [3, 3, 3]


async def test_one_batch_is_parsed_ahead_and_no_more() -> None:
    reached: list[int] = []
    rows = csv_file(numbered(40))

    async def append(streams: Any, events: Any) -> int:
        reached.append(len(events))
        return len(events)

    seen: list[int] = []
    done = await import_rows(rows, PLAIN, append, batch_size=4, on_batch=lambda batch, _: seen.append(batch.bytes_read))
    assert (done.added, reached) == (40, [4] * 10)
    assert seen == sorted(seen)
    assert seen[-1] == rows.size


async def test_an_exported_id_that_comes_twice_is_known_the_second_time(store: EventStore) -> None:
    record = {
        "id": "0198f000-0000-7000-8000-000000000001",
        "stream": "c1",
        "type": "Opened",
        "data": {"n": 2**80},
        "created_at": "2025-01-01T00:00:00Z",
    }
    done = await import_rows(ndjson_file(record, record), Exported(), store.append_known)
    assert (done.added, done.known) == (1, 1)


async def test_exported_events_without_a_stream_get_none(store: EventStore) -> None:
    places = (None, "c1", None)
    records = [
        {"id": str(uuid5(NAMESPACE, str(number))), "stream": stream, "type": "A", "data": 1, "created_at": "2025-01-01"}
        for number, stream in enumerate(places)
    ]
    done = await import_rows(ndjson_file(*records), Exported(), store.append_known)
    again = await import_rows(ndjson_file(*records), Exported(), store.append_known)
    assert (done.added, again.known) == (3, 3)
    assert [event.stream async for event in store.read_all()] == list(places)


@pytest.mark.parametrize("stream", ["", 7, False, [], "x" * 513])
def test_an_exported_stream_that_is_no_name_is_rejected(stream: Any) -> None:
    record = {"id": str(NAMESPACE), "stream": stream, "type": "A", "data": 1, "created_at": "2025-01-01T00:00:00Z"}
    ((line, reason),) = rejects(ndjson_file(record), Exported())
    assert (line, reason.startswith("stream name must ")) == (1, True)


async def test_a_row_for_a_stream_closed_for_good_is_named(store: EventStore) -> None:
    await store.tombstone_stream("c2")
    with pytest.raises(ImportFailed, match=r"log\.csv, line 4: stream 'c2' is closed for good.*Nothing was imported"):
        await imported(store, numbered(3))
    assert await numbers(store) == []


@pytest.mark.parametrize("missing", ["id", "stream", "type", "data", "created_at"])
def test_a_line_that_is_no_export_is_rejected(missing: str) -> None:
    record = {"id": str(NAMESPACE), "stream": "c1", "type": "A", "data": 1, "created_at": "2025-01-01T00:00:00Z"}
    assert not rejects(ndjson_file(record), Exported())
    del record[missing]
    assert rejects(ndjson_file(record), Exported()) == [(1, f"not a line of an export: there is no {missing!r}")]
