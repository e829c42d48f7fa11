from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from eventstore import Event, EventStore, NewEvent
from eventstore.cli import demo as demo_command
from eventstore.demo import run as running
from eventstore.demo.checker import Arrival, judge
from eventstore.demo.history import Fact, generate
from eventstore.demo.plan import plan_for_file, plan_for_shop
from eventstore.demo.report import _program
from eventstore.errors import EventStoreError
from tests.cli.conftest import Run, Spawn, failure, interrupted, line_with, rows

SMALL = ("demo", "--events", "400", "--live", "40", "--rate", "1000")


def as_delivered(facts: list[Fact]) -> list[Arrival]:
    """What a perfect subscription to everything would be delivered, a millisecond after each call."""
    versions: dict[str, int] = {}
    arrivals = []
    for position, fact in enumerate(facts, 1):
        version = versions[fact.stream] = versions.get(fact.stream, 0) + 1
        one = fact.event
        event = Event(
            one.id, one.type, one.data, dict(one.metadata), tuple(one.tags), fact.stream, version, position, 0,
            one.created_at, datetime.now(UTC),
        )  # fmt: skip
        arrivals.append(Arrival(event, position + 0.001))
    return arrivals


# -- the history


def test_a_seed_tells_one_history() -> None:
    assert generate(300, 5) == generate(300, 5)
    assert [fact.event.id for fact in generate(300, 5)] != [fact.event.id for fact in generate(300, 6)]


def test_a_longer_history_goes_on_from_a_shorter_one() -> None:
    assert generate(500, 1)[:200] == generate(200, 1)


def test_streams_interleave_and_tell_their_events_in_order_of_time() -> None:
    facts = generate(2000, 1)
    assert len({fact.stream.split("-")[0] for fact in facts}) == 4
    assert len({fact.stream for fact in facts[:100]}) > 30
    assert [fact.event.created_at for fact in facts] == sorted(fact.event.created_at for fact in facts)


# -- the checker


def test_the_checker_accepts_what_is_right_and_tells_the_latency() -> None:
    facts = generate(100, 1)
    called = {fact.event.id: float(number) for number, fact in enumerate(facts, 1)}
    verdict = judge(facts, as_delivered(facts), called)
    assert verdict.ok
    assert (verdict.delivered, verdict.expected) == (100, 100)
    assert (verdict.median, verdict.p99) == (pytest.approx(1), pytest.approx(1))


def lost(arrivals: list[Arrival]) -> None:
    del arrivals[50]


def repeated(arrivals: list[Arrival]) -> None:
    arrivals.append(arrivals[50])


def foreign(arrivals: list[Arrival]) -> None:
    arrivals.append(replace(arrivals[50], event=replace(arrivals[50].event, id=generate(1, 99)[0].event.id)))


def swapped(arrivals: list[Arrival]) -> None:
    stream = arrivals[-1].event.stream
    places = [number for number, one in enumerate(arrivals) if one.event.stream == stream]
    first, last = places[0], places[-1]
    arrivals[first], arrivals[last] = arrivals[last], arrivals[first]


def changed(arrivals: list[Arrival]) -> None:
    arrivals[50] = replace(arrivals[50], event=replace(arrivals[50].event, data={"total": 0}))


@pytest.mark.parametrize(
    ("tamper", "problem"),
    [
        (lost, "missing"),
        (repeated, "duplicates"),
        (foreign, "unexpected"),
        (swapped, "order_violations"),
        (changed, "altered"),
    ],
)
def test_the_checker_catches_a_planted_fault(tamper: Callable[[list[Arrival]], None], problem: str) -> None:
    facts = [fact for fact in generate(400, 1) if fact.stream.startswith("warehouse-")]
    arrivals = as_delivered(facts)
    tamper(arrivals)
    verdict = judge(facts, arrivals, {})
    assert not verdict.ok
    assert list(verdict.problems) == [problem]


# -- the plan


@pytest.mark.parametrize("kind", ["shop", "file"])
def test_plain_python_and_the_selectors_want_the_same(kind: str) -> None:
    facts = generate(1000, 3)
    events = [arrival.event for arrival in as_delivered(facts)]
    for planned in plan_for_shop() if kind == "shop" else plan_for_file(facts):
        wanted = [planned.wants(fact) for fact in facts]
        assert wanted == [planned.selector.matches(event) for event in events], planned.name
        assert any(wanted)


def test_a_file_that_offers_little_gets_fewer_subscriptions() -> None:
    assert [one.name for one in plan_for_file([Fact("s", NewEvent("T"))])] == ["stream", "type"]


def test_live_copies_are_new_events_for_every_subscription() -> None:
    facts = generate(300, 1)
    plan = plan_for_file(facts)
    copies = running.live_copies(facts, plan, 10, seed=1)
    assert not {fact.event.id for fact in copies} & {fact.event.id for fact in facts}
    assert all(any(planned.wants(fact) for fact in copies) for planned in plan)


# -- the run


def prepared(db: str, work: Callable[[EventStore, list[Fact]], Any]) -> Any:
    """Call *work* with a store that holds a small history, and that history."""

    async def run() -> Any:
        async with EventStore(db) as store:
            facts = generate(200, 1)
            await store.append_known([fact.stream for fact in facts], [fact.event for fact in facts])
            return await work(store, facts)

    return asyncio.run(run())


def test_an_event_that_never_comes_is_reported_after_the_deadline(db: str) -> None:
    async def work(store: EventStore, facts: list[Fact]) -> running.Outcome:
        never = [*facts, generate(201, 1)[-1]]
        return await running.run(store, plan_for_shop(), [*never, *generate(900, 7)[-300:]], [], patience=0.5)

    outcome = prepared(db, work)
    assert not outcome.complete
    assert not outcome.ok
    assert any(verdict.problems.get("missing") for _, verdict in outcome.verdicts)


def test_emitters_that_fail_are_no_silent_wait(db: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def broken(_store: EventStore) -> None:
        raise EventStoreError("no emitters today")

    monkeypatch.setattr(EventStore, "run", broken)
    with pytest.raises(EventStoreError, match="no emitters today"):
        prepared(db, lambda store, facts: running.run(store, plan_for_shop(), facts, []))


# -- the command


def test_the_demo_delivers_what_plain_python_counts(cli: Run) -> None:
    (report,) = rows(cli(*SMALL, "--json"))
    assert (report["ok"], report["events"], report["live_events"]) == (True, 400, 40)
    assert len(report["subscriptions"]) == 6
    assert max(one["pool_size"] for one in report["subscriptions"]) > 1
    assert all(one["delivered"] == one["expected"] > 0 for one in report["subscriptions"])


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_signals_end_the_demo_early(spawn: Spawn, number: int, code: int) -> None:
    process = spawn("demo", "--events", "400", "--live", "10000", "--rate", "1")
    line_with(process.stdout, "appending")
    assert interrupted(process, number) == (code, "")


def test_the_demo_explains_itself_and_says_what_to_try_next(cli: Run) -> None:
    result = cli(*SMALL)
    assert result.exit_code == 0, result.output
    for text in ("Created the schema eventstore_demo", "Imported 400 events", "EventPayload", "Try next:"):
        assert text in result.stdout


@pytest.mark.parametrize(
    ("called", "shown"),
    [
        (".venv/bin/eventstore", ".venv/bin/eventstore"),
        ("my venv/bin/eventstore", "'my venv/bin/eventstore'"),
        ("eventstore/cli/__main__.py", f"{sys.executable} -m eventstore.cli"),
        ("bin/pytest", "eventstore"),
    ],
)
def test_what_to_try_next_begins_with_the_program_as_it_was_called(
    monkeypatch: pytest.MonkeyPatch, called: str, shown: str
) -> None:
    monkeypatch.setattr(sys, "argv", [called])
    monkeypatch.setenv("PATH", "")
    assert _program() == shown


def test_a_program_on_the_path_needs_no_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "eventstore").touch(mode=0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "eventstore")])
    assert _program() == "eventstore"


def test_without_a_dsn_the_demo_runs_on_the_embedded_postgres(plain: Run, tmp_path: Path) -> None:
    result = plain(*SMALL, "--data-dir", str(tmp_path / "pg"))
    assert result.exit_code == 0, result.output
    assert f"Started Postgres in {tmp_path / 'pg'}" in result.stdout


def test_the_demo_can_be_run_again_and_leaves_its_log_to_be_read(cli: Run) -> None:
    for _ in range(2):
        assert cli(*SMALL).exit_code == 0
    assert len(rows(cli("read", "--schema", "eventstore_demo", "--json"))) == 440
    assert rows(cli("read", "--json")) == []


def test_a_file_can_be_shown_instead(cli: Run, tmp_path: Path) -> None:
    file = tmp_path / "log.csv"
    cases = "".join(f"case-{n % 7},{'Opened' if n % 3 else 'Closed'},G{n % 2},{n}\n" for n in range(150))
    file.write_text(f"case,activity,group,n\n{cases}")
    options = ("--file", str(file), "--stream", "case", "--type", "activity", "--tag", "group")
    (report,) = rows(cli("demo", *options, "--live", "30", "--rate", "1000", "--json"))
    assert (report["ok"], report["events"], report["live_events"]) == (True, 150, 30)
    assert [one["subscription"] for one in report["subscriptions"]] == ["stream", "type", "pattern", "payload", "tags"]
    assert report["subscriptions"][1]["selector"] == "EventType('Opened')"


def test_a_miscount_fails_the_demo(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(expected: Any, arrivals: list[Arrival], called: Any) -> Any:
        return judge(expected, arrivals[1:], called)

    monkeypatch.setattr(running, "judge", forgetful)
    result = cli(*SMALL)
    assert result.exit_code == 1
    assert "WRONG: 1 missing" in result.stdout
    assert "FAILED" in result.stdout


def test_a_schema_of_somebody_else_is_left_alone(cli: Run, execute: Callable[[str], None]) -> None:
    execute("create schema eventstore_demo; create table eventstore_demo.theirs ()")
    assert failure(cli(*SMALL, "--json")) == (2, "ConfigurationError")
    execute("drop table eventstore_demo.theirs")


@pytest.mark.parametrize("args", [("--schema", "mine"), ("--stream", "case"), ("--file", __file__)])
def test_options_that_mean_nothing_here_are_refused(cli: Run, args: tuple[str, ...]) -> None:
    assert cli("demo", *args).exit_code == 2


def test_the_demos_schema_is_not_the_default_one() -> None:
    assert demo_command.SCHEMA == "eventstore_demo"
