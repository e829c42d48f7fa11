"""What somebody who may do anything to the database could do to a log: each kind a function from a seeded choice of
victims to statements, and to what must be found.

Triggers do not fire, constraints may be dropped. `ALONE` are the kinds that are found without any seal; the others are
those that leave a log which could have been written that way, or that touch what has no hash.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

__all__ = ["KINDS", "Log", "Tampering"]


@dataclass(frozen=True)
class Log:
    """What stands in the log: rows of events, and positions that were never used."""

    events: Sequence[Any]
    free: Sequence[int]

    def of(self, stream: str) -> list[Any]:
        return [one for one in self.events if one["stream"] == stream]

    def after(self, victim: Any) -> Any:
        """The next event of the same stream; None: there is none, or no stream."""
        if victim["stream"] is None:
            return None
        return next((one for one in self.of(victim["stream"]) if one["version"] == victim["version"] + 1), None)

    @property
    def streams(self) -> list[str]:
        return sorted({one["stream"] for one in self.events if one["stream"] is not None})


@dataclass(frozen=True)
class Tampering:
    """What is done, and what must be found.

    Attributes:
        first: positions of which one must be named first, by itself or as part of a range; empty: the log is not where
            it is found.
        alone: it must be found without seals; False: it cannot be; None: that depends.
    """

    statements: Sequence[str]
    first: frozenset[int]
    alone: bool | None


Kind = Callable[[Random, Log], Tampering]


def chained(one: Any) -> bool:
    return len(one["hash"] or b"") in (48, 64)


def live(log: Log) -> list[Any]:
    return [one for one in log.events if one["data"] is not None]


# -- single events


def edit(column: str, *values: str, only_live: bool = True) -> Kind:
    def kind(random: Random, log: Log) -> Tampering:
        victims = live(log) if only_live else log.events
        # Or there may be nothing to change.
        if column == "hash":
            victims = [one for one in victims if chained(one)]
        if column == "data":
            victims = [one for one in victims if one["data"] != "null"]
        victim = random.choice(victims)
        statement = f"update events set {column} = {random.choice(values)} where position = {victim['position']}"
        return Tampering([statement], frozenset({victim["position"]}), True if chained(victim) else None)

    kind.__name__ = f"edit_{column}"
    return kind


def move(random: Random, log: Log) -> Tampering:
    victim, to = random.choice(log.events), random.choice(log.free)
    near = [one["position"] for one in (log.after(victim),) if one]
    return Tampering(
        [f"update events set position = {to} where position = {victim['position']}"],
        frozenset({victim["position"], to, *near}),
        True if chained(victim) else None,
    )


def give_away(random: Random, log: Log) -> Tampering:
    """An event to another stream, at its end."""
    victim = random.choice([one for one in log.events if one["stream"] is not None])
    to = random.choice([name for name in log.streams if name != victim["stream"]])
    after = log.after(victim)
    return Tampering(
        [
            f"update events set stream = '{to}', version = {len(log.of(to)) + 1} where position = {victim['position']}",
            f"update streams set version = version + 1 where name = '{to}'",
        ],
        frozenset({victim["position"], *([after["position"]] if after else [])}),
        True,
    )


def delete(random: Random, log: Log) -> Tampering:
    victim = random.choice(log.events)
    after = log.after(victim)
    return Tampering(
        [
            f"delete from events where position = {victim['position']}",
            f"delete from event_tags where position = {victim['position']}",
        ],
        frozenset({victim["position"], *([after["position"]] if after else [])}),
        victim["stream"] is not None,
    )


def insert(random: Random, log: Log) -> Tampering:
    """A copy under another id, with its hash, at the end of its stream, where there is room in the log."""
    victim, to = random.choice(log.events), random.choice(log.free)
    end = "null" if victim["stream"] is None else f"{len(log.of(victim['stream'])) + 1}"
    return Tampering(
        [
            "insert into events (position, id, stream, version, bucket, type, data, metadata, tags, created_at,"
            f" recorded_at, hash) select {to}, gen_random_uuid(), stream, {end}, bucket, type, data, metadata, '{{}}',"
            f" created_at, recorded_at, hash from events where position = {victim['position']}",
            f"update streams set version = version + 1 where name = '{victim['stream']}'",
        ],
        frozenset({to}),
        True if chained(victim) else None,
    )


def insert_twice(random: Random, log: Log) -> Tampering:
    """The same row again: constraints do not last."""
    victim = random.choice(log.events)
    return Tampering(
        [
            "alter table events drop constraint events_position_key, drop constraint events_id_key,"
            " drop constraint events_stream_version_key",
            f"insert into events select * from events where position = {victim['position']}",
        ],
        frozenset({victim["position"]}),
        True,
    )


def erase(random: Random, log: Log) -> Tampering:
    """The content alone, as a clumsy scavenging would."""
    victim = random.choice(live(log))
    return Tampering(
        [
            f"update events set data = null, metadata = '{{}}', tags = '{{}}' where position = {victim['position']}",
            f"delete from event_tags where position = {victim['position']}",
        ],
        frozenset({victim["position"]}),
        True if chained(victim) else None,
    )


# -- several events


def swap(*columns: str) -> Kind:
    def kind(random: Random, log: Log) -> Tampering:
        several = [one for one in log.events if chained(one) and one["data"] is not None]
        one = random.choice(several)
        other = random.choice([two for two in several if any(two[name] != one[name] for name in columns)])
        a, b = sorted((one["position"], other["position"]))
        names = ", ".join(columns)
        return Tampering(
            [
                "alter table events drop constraint events_position_key, drop constraint events_id_key,"
                " drop constraint events_stream_version_key",
                f"update events e set ({names}) = (select {names} from events o"
                f" where o.position = {a + b} - e.position) where e.position in ({a}, {b})",
            ],
            frozenset({a, b}),
            True,
        )

    kind.__name__ = f"swap_{'_'.join(columns)}"
    return kind


def swap_positions(random: Random, log: Log) -> Tampering:
    one, other = random.sample([one for one in log.events if chained(one)], 2)
    a, b = sorted((one["position"], other["position"]))
    return Tampering(
        [
            f"update events set position = -1 where position = {a}",
            f"update events set position = {a} where position = {b}",
            f"update events set position = {b} where position = -1",
        ],
        frozenset({a}),
        True,
    )


def rename_stream(random: Random, log: Log) -> Tampering:
    victim = random.choice(log.streams)
    events = log.of(victim)
    return Tampering(
        [
            f"update events set stream = 'renamed' where stream = '{victim}'",
            f"update streams set name = 'renamed', bucket = bucket_v1('renamed') where name = '{victim}'",
        ],
        frozenset({events[0]["position"]}) if chained(events[0]) else frozenset(one["position"] for one in events),
        True if any(map(chained, events)) else None,
    )


def swap_streams(random: Random, log: Log) -> Tampering:
    one, other = random.sample(log.streams, 2)
    events = log.of(one) + log.of(other)
    return Tampering(
        [
            f"update events set stream = '-' where stream = '{one}'",
            f"update events set stream = '{one}' where stream = '{other}'",
            f"update events set stream = '{other}' where stream = '-'",
            f"update streams s set version = (select max(version) from events where stream = s.name)"
            f" where name in ('{one}', '{other}')",
        ],
        frozenset(one["position"] for one in events),
        True if any(map(chained, events)) else None,
    )


# -- what could have been written that way

CHAIN = """
    do $do$ declare e events; v_link bytea; v_content bytea; begin
        for e in select * from events where stream = '{stream}' order by version loop
            if octet_length(e.hash) in (48, 64) then
                v_content := case when e.data is null then substr(e.hash, 1, 32) else
                    event_content_v1(substr(e.hash, 1, 16), e.data, e.metadata, e.tags::text) end;
                v_link := sha256(chain_before_v1(e.stream, e.version) || event_record_v1(e.position, e.id, e.stream,
                    e.version, e.bucket, e.type, e.created_at, e.recorded_at, v_content));
                update events set hash = substr(hash, 1, octet_length(hash) - 32) || v_link where position = e.position;
            end if;
        end loop;
    end $do$
"""


def chain_again(stream: str) -> str:
    return CHAIN.format(stream=stream)


def edit_and_chain_again(random: Random, log: Log) -> Tampering:
    victim = random.choice([one for one in live(log) if one["stream"] is not None])
    return Tampering(
        [
            f"update events set data = '{{\"total\": 1000000}}' where position = {victim['position']}",
            chain_again(victim["stream"]),
        ],
        frozenset({victim["position"]}),
        False,
    )


def delete_and_chain_again(random: Random, log: Log) -> Tampering:
    victim = random.choice([one for one in log.events if one["stream"] is not None])
    stream = victim["stream"]
    return Tampering(
        [
            f"delete from events where position = {victim['position']}",
            f"delete from event_tags where position = {victim['position']}",
            f"update events set version = -version where stream = '{stream}' and version > {victim['version']}",
            f"update events set version = -version - 1 where stream = '{stream}' and version < 0",
            f"update streams set version = version - 1 where name = '{stream}'",
            f"delete from streams where name = '{stream}' and version = 0",
            chain_again(stream),
        ],
        frozenset({victim["position"]}),
        False,
    )


def delete_without_a_stream(random: Random, log: Log) -> Tampering:
    at = random.choice([one for one in log.events if one["stream"] is None])["position"]
    return Tampering(
        [f"delete from events where position = {at}", f"delete from event_tags where position = {at}"],
        frozenset({at}),
        False,
    )


def edit_what_has_no_hash(random: Random, log: Log) -> Tampering:
    victim = random.choice([one for one in live(log) if one["hash"] is None])
    return Tampering(
        [f"update events set data = '0' where position = {victim['position']}"], frozenset({victim["position"]}), False
    )


def remove_stream(random: Random, log: Log) -> Tampering:
    victim = random.choice(log.streams)
    return Tampering(
        [
            f"delete from event_tags where position in (select position from events where stream = '{victim}')",
            f"delete from events where stream = '{victim}'",
            f"delete from streams where name = '{victim}'",
        ],
        frozenset({log.of(victim)[0]["position"]}),
        False,
    )


def cut_tail(random: Random, log: Log) -> Tampering:
    at = random.choice(log.events[len(log.events) // 2 :])["position"]
    return Tampering(
        [
            f"delete from events where position >= {at}",
            f"delete from event_tags where position >= {at}",
            "update streams s set version = coalesce((select max(version) from events where stream = s.name), 0)",
            "delete from streams where version = 0",
            f"select setval('event_positions', {at - 1})",
        ],
        frozenset({at}),
        False,
    )


def cut_tail_and_go_on(random: Random, log: Log) -> Tampering:
    cut = cut_tail(random, log)
    lines = """select append_events('another', '[{"type": "A"}, {"type": "B"}]') from generate_series(1, 40)"""
    return Tampering([*cut.statements, lines], cut.first, False)


def clear(random: Random, log: Log) -> Tampering:
    return Tampering(
        [
            "delete from events",
            "delete from event_tags",
            "delete from streams",
            "select setval('event_positions', 0)",
            "select setval('event_chain', 0, false)",
            "delete from chain_periods",
        ],
        frozenset({log.events[0]["position"]}),
        False,
    )


# -- beside the events


def untag(random: Random, log: Log) -> Tampering:
    victim = random.choice([one for one in log.events if one["tags"]])
    return Tampering(
        [f"delete from event_tags where position = {victim['position']}"], frozenset({victim["position"]}), True
    )


def tag(random: Random, log: Log) -> Tampering:
    victim = random.choice(log.events)
    return Tampering(
        [f"insert into event_tags (tag, position) values ('forged', {victim['position']})"],
        frozenset({victim["position"]}),
        True,
    )


def change_stream_row(random: Random, log: Log) -> Tampering:
    victim = random.choice(log.streams)
    change, where = random.choice(
        [
            (f"update streams set version = version + 1 where name = '{victim}'", frozenset[int]()),
            (f"update streams set bucket = (bucket + 1) % 1024 where name = '{victim}'", frozenset[int]()),
            (f"update streams set version = 0 where name = '{victim}'", {log.of(victim)[0]["position"]}),
            (f"delete from streams where name = '{victim}'", {log.of(victim)[0]["position"]}),
        ]
    )
    return Tampering([change], frozenset(where), True)


def change_periods(random: Random, log: Log) -> Tampering:
    """As if the chain had not been on; hashes are still there."""
    hashed = [one["position"] for one in log.events if chained(one)]
    return Tampering(
        ["delete from chain_periods", "select setval('event_chain', 0, false)"], frozenset(hashed[:1]), True
    )


def unchain(random: Random, log: Log) -> Tampering:
    """As if the chain had never been on."""
    hashed = [one["position"] for one in log.events if chained(one) and one["data"] is not None]
    return Tampering(
        [
            "delete from chain_periods",
            "select setval('event_chain', 0, false)",
            "update events set hash = case when data is null then substr(hash, 1, 32) end where hash is not null",
        ],
        frozenset(one["position"] for one in log.events if chained(one)) | set(hashed[:1]),
        False,
    )


def insert_beyond(random: Random, log: Log) -> Tampering:
    return Tampering(
        [
            "insert into events (position, id, bucket, type, data, metadata, created_at, recorded_at)"
            " values (1000000, gen_random_uuid(), 1, 'Forged', '1', '{}', now(), now())"
        ],
        frozenset({1_000_000}),
        True,
    )


def insert_below(random: Random, log: Log) -> Tampering:
    at = random.choice([0, -1, -(1 << 62)])
    return Tampering(
        [
            "insert into events (position, id, bucket, type, data, metadata, created_at, recorded_at)"
            f" values ({at}, gen_random_uuid(), 1, 'Forged', '1', '{{}}', now(), now())"
        ],
        frozenset({at}),
        True,
    )


KINDS: tuple[Kind, ...] = (
    edit("id", "gen_random_uuid()", only_live=False),
    edit("type", "'Forged'", "type || ' '", only_live=False),
    edit("bucket", "(bucket + 1) % 1024", only_live=False),
    edit("created_at", "created_at + interval '1 microsecond'", "'infinity'", "'4000-01-01 BC'", only_live=False),
    edit("recorded_at", "recorded_at - interval '1 day'", "'-infinity'", only_live=False),
    edit("data", "'{\"total\": 1000000}'", "(data::text || ' ')::json", "'null'"),
    edit("metadata", '\'{"who": "somebody else"}\'', "'{ }'"),
    edit("tags", "'{forged}'", "tags || '{\"n\"}'", "'[0:0]={a}'"),
    edit("hash", "sha256('x')", "null", "set_byte(hash, 20, 255 - get_byte(hash, 20))", "'\\x'", "hash || '\\x00'"),
    move,
    give_away,
    delete,
    insert,
    insert_twice,
    erase,
    swap("data"),
    swap("data", "metadata", "tags", "hash"),
    swap("id"),
    swap("stream", "version"),
    swap("hash"),
    swap_positions,
    rename_stream,
    swap_streams,
    edit_and_chain_again,
    delete_and_chain_again,
    delete_without_a_stream,
    edit_what_has_no_hash,
    remove_stream,
    cut_tail,
    cut_tail_and_go_on,
    clear,
    untag,
    tag,
    change_stream_row,
    change_periods,
    unchain,
    insert_beyond,
    insert_below,
)
