"""`pubsub`: what a shell sends and sees of the topics of an application's nodes."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from eventstore.cli.pubsub import WAITING
from eventstore.pubsub import Postgres, PubSub
from tests.cli.conftest import Run, Spawn, failure, interrupted, line_with, rows


class Placed(BaseModel):
    model_config = ConfigDict(frozen=True)
    total: int


@asynccontextmanager
async def node(db: str, name: str = "web", **options: Any) -> AsyncIterator[PubSub]:
    async with PubSub("eventstore", Postgres(db, node_name=name), **options) as pubsub:
        pubsub.codec.register(Placed)
        yield pubsub


def heard(db: str, cli: Run, *args: str, count: int, topic: str = "t", **options: Any) -> list[Any]:
    """What a node of an application gets of a command that runs beside it."""

    async def run() -> list[Any]:
        async with node(db) as pubsub, pubsub.subscription(topic) as messages, asyncio.timeout(120):
            result = await asyncio.to_thread(cli, "pubsub", *args, **options)
            assert result.exit_code == 0, result.output
            return [await messages.get() for _ in range(count)]

    return asyncio.run(run())


def watched(spawn: Spawn, *args: str, **options: Any) -> subprocess.Popen[str]:
    """`subscribe`, once it hears."""
    process = spawn("pubsub", "subscribe", "-v", *args, **options)
    line_with(process.stderr, "subscribed to")
    return process


def send(db: str, *messages: Any, topic: str = "t", **options: Any) -> None:
    async def run() -> None:
        async with node(db) as pubsub:
            pubsub.register_dispatcher("own", lambda *_: None)
            for message in messages:
                await pubsub.broadcast(topic, message, **options)

    asyncio.run(run())


# -- publish


@pytest.mark.parametrize("message", [{"text": "grüß\u2028dich"}, "hello", None, [1, 2.5, 10**30], -7])
def test_what_is_published_reaches_a_node(db: str, cli: Run, message: Any) -> None:
    assert heard(db, cli, "publish", "t", "--", json.dumps(message), count=1) == [message]


def test_tuples_and_models_are_written_as_on_the_wire(db: str, cli: Run) -> None:
    wire = '{"~t": ["placed", {"~m": ["Placed", {"total": 9}]}]}'
    assert heard(db, cli, "publish", "t", wire, count=1) == [("placed", Placed(total=9))]


def test_the_lines_of_stdin_are_sent_in_their_order(db: str, cli: Run) -> None:
    assert heard(db, cli, "publish", "t", "--stdin", input="1\n\n[2]\n3", count=3) == [1, [2], 3]


def test_one_node_can_be_named(db: str, cli: Run) -> None:
    async def run() -> list[Any]:
        async with node(db, "a") as a, node(db, "b") as b, a.subscription("t") as of_a, b.subscription("t") as of_b:
            for args in ("1", "--node", "b"), ("2",):
                await asyncio.to_thread(cli, "pubsub", "publish", "t", *args)
            async with asyncio.timeout(120):
                return [await of_a.get(), await of_b.get(), await of_b.get()]

    assert asyncio.run(run()) == [2, 1, 2]


def test_publish_says_what_was_sent(cli: Run) -> None:
    assert cli("pubsub", "publish", "t", "1").output == "sent 1 message to t\n"
    assert cli("pubsub", "publish", "t", "--stdin", "--node", "a", input="1\n2\n").output == (
        "sent 2 messages to t on node a\n"
    )
    assert rows(cli("pubsub", "publish", "t", "1", "--json")) == [{"topic": "t", "node": None, "sent": 1}]


@pytest.mark.parametrize(
    ("message", "says"),
    [("hello", "quote it for the shell"), ("NaN", "nan is no JSON number"), ('"\ud800"', ""), ('"\\ud800"', "lone")],
)
def test_what_is_no_message_is_refused(plain: Run, message: str, says: str) -> None:
    result = plain("pubsub", "publish", "t", message, "--json")
    assert failure(result) == (2, "BadParameter")
    assert says in result.stderr


@pytest.mark.parametrize("args", [(), ("1", "--stdin")], ids=" ".join)
def test_a_message_or_stdin_is_wanted(plain: Run, args: tuple[str, ...]) -> None:
    assert failure(plain("pubsub", "publish", "t", *args, "--json")) == (2, "UsageError")


def test_a_line_that_is_no_json_ends_publishing_and_is_named(cli: Run) -> None:
    result = cli("pubsub", "publish", "t", "--stdin", "--json", input="1\n\nx\n2\n")
    assert failure(result) == (2, "UsageError")
    assert "line 3: not JSON" in result.stderr


def test_a_message_that_is_too_large_is_refused_and_says_what_was_sent(cli: Run) -> None:
    result = cli("pubsub", "publish", "t", "--stdin", "--json", input=f'1\n"{"x" * (16 << 20)}"\n')
    assert failure(result)[1] == "InvalidMessage"
    assert "(1 before it were sent)" in result.stderr


def test_topics_that_begin_with_a_dollar_are_the_nodes_own(cli: Run) -> None:
    assert failure(cli("pubsub", "publish", "$stats", "1", "--json")) == (2, "ConfigurationError")


@pytest.mark.parametrize("args", [("publish", "t", "1"), ("subscribe", "t"), ("stats",)], ids=" ".join)
def test_a_database_that_is_not_there_is_unavailable(plain: Run, args: tuple[str, ...]) -> None:
    result = plain("pubsub", *args, "--dsn", "postgresql://nobody@/nowhere?host=/nowhere", "--json")
    assert failure(result) == (3, "DatabaseUnavailable")


def test_ctrl_c_while_waiting_for_stdin_keeps_what_was_sent(db: str, spawn: Spawn) -> None:
    watching = watched(spawn, "t")
    process = spawn("pubsub", "publish", "t", "--stdin", stdin=subprocess.PIPE)
    process.stdin.write("1\n")
    process.stdin.flush()
    assert watching.stdout.readline() == "t\t1\n"
    assert interrupted(process) == (130, "")


# -- subscribe


def test_messages_of_several_topics_are_printed_as_they_come(spawn: Spawn, cli: Run) -> None:
    process = watched(spawn, "a", "b\tc")
    cli("pubsub", "publish", "a", '{"x": [1, "ü"]}')
    assert process.stdout.readline() == 'a\t{"x":[1,"ü"]}\n'
    cli("pubsub", "publish", "other", "0")
    cli("pubsub", "publish", "b\tc", '"hello"')
    assert process.stdout.readline() == 'b\\tc\t"hello"\n'
    assert interrupted(process) == (130, "")


def test_json_lines_name_topic_and_message(spawn: Spawn, cli: Run) -> None:
    process = watched(spawn, "a", "--json", "--limit", "2")
    cli("pubsub", "publish", "a", "--stdin", input="1\nnull\n3\n")
    stdout, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert [json.loads(line) for line in stdout.splitlines()] == [
        {"topic": "a", "message": 1},
        {"topic": "a", "message": None},
    ]


def test_models_and_tuples_of_an_application_are_shown_as_json(db: str, spawn: Spawn) -> None:
    process = watched(spawn, "t", "--limit", "1")
    send(db, ("placed", Placed(total=9)))
    assert process.communicate(timeout=120)[0] == 't\t{"~t":["placed",{"~m":["Placed",{"total":9}]}]}\n'


def test_messages_for_a_dispatcher_of_an_application_are_shown(db: str, spawn: Spawn) -> None:
    process = watched(spawn, "t", "--limit", "1")
    send(db, 1, dispatcher="own")
    assert process.communicate(timeout=120)[0] == "t\t1\n"


def test_every_shard_an_application_sends_on_is_heard(db: str, spawn: Spawn) -> None:
    async def run() -> None:
        async with node(db, pool_size=4) as pubsub, asyncio.TaskGroup() as group:
            for number in range(20):
                group.create_task(pubsub.broadcast("t", number))

    process = watched(spawn, "t", "--limit", "20")
    asyncio.run(run())
    assert sorted(process.communicate(timeout=120)[0].split()[1::2], key=int) == [str(n) for n in range(20)]


def test_a_lost_connection_is_told_and_messages_come_again(
    spawn: Spawn, cli: Run, execute: Callable[[str], None]
) -> None:
    process = watched(spawn, "t", "--limit", "1")
    execute("select pg_terminate_backend(pid) from pg_stat_activity where application_name like '%pubsub listener%'")
    line_with(process.stderr, "the connection was lost")
    line_with(process.stderr, "connected again")
    cli("pubsub", "publish", "t", "1")
    assert process.stdout.readline() == "t\t1\n"


def test_sigterm_ends_subscribe_without_a_word(spawn: Spawn) -> None:
    assert interrupted(watched(spawn, "t"), signal.SIGTERM) == (143, "")


def test_a_reader_that_leaves_ends_subscribe_quietly(spawn: Spawn, cli: Run) -> None:
    process = watched(spawn, "t")
    process.stdout.close()
    cli("pubsub", "publish", "t", "1")
    assert (process.wait(120), process.stderr.read()) == (0, "")


def test_what_nobody_reads_in_time_is_dropped_and_counted_at_the_end(db: str, spawn: Spawn) -> None:
    async def overflow() -> int:
        async with node(db) as pubsub, asyncio.timeout(60):
            await pubsub.broadcast("t", "x" * 200_000)  # more than a pipe holds
            async with asyncio.TaskGroup() as group:
                for number in range(WAITING + 2000):
                    group.create_task(pubsub.broadcast("t", number))
            while not (dropped := sum(one.dropped for one in await pubsub.cluster_stats(within=0.2))):
                pass
            return dropped

    process = watched(spawn, "t")
    dropped = asyncio.run(overflow())
    code, stderr = interrupted(process)
    assert (code, int(stderr.split(" messages came faster")[0].split()[-1]) >= dropped) == (130, True)


def test_no_message_is_wanted_with_limit_0(plain: Run) -> None:
    assert plain("pubsub", "subscribe", "t", "--limit", "0").output == ""


# -- stats


def stats_beside(db: str, cli: Run, *names: str) -> list[dict[str, Any]]:
    """What the command prints, given *names*, beside two nodes that answer it within the time it takes."""

    async def stats(*args: str) -> list[dict[str, Any]]:
        return rows(await asyncio.to_thread(cli, "pubsub", "stats", "--within", "1", "--json", *args))

    async def run() -> list[dict[str, Any]]:
        async with node(db, "a", pool_size=4) as a, node(db, "b") as b, a.subscription("t"), b.subscription("t", "u"):
            await a.broadcast("u", 1)
            await b.broadcast("t", "x" * 1_000_000)
            async with asyncio.timeout(120):
                while len(both := await stats()) < 3:
                    pass
            return await stats(*names) if names else both

    return asyncio.run(run())


def test_stats_show_what_each_node_counts_and_how_full_postgres_is(db: str, cli: Run) -> None:
    a, b, server = stats_beside(db, cli)
    assert [one["node"] for one in (a, b)] == ["a", "b"]
    assert [(one["topics"], one["subscriptions"], one["broadcasts"], one["dropped"]) for one in (a, b)] == [
        (1, 1, 1, 0),
        (2, 2, 1, 0),
    ]
    assert (a["pool_size"], b["busiest"]) == (4, {"t": 1, "u": 1})
    assert server.keys() == {"notification_queue_usage", "spill_rows", "spill_bytes"}


def test_nodes_of_another_name_are_not_listed(db: str, cli: Run) -> None:
    assert len(stats_beside(db, cli, "--name", "another")) == 1


def test_stats_without_nodes_have_no_rows_and_a_hint(cli: Run) -> None:
    result = cli("pubsub", "stats", "--within", "0.01")
    assert result.stdout.splitlines() == [
        "notification_queue_usage    0.0",
        "spill_rows                  0",
        "spill_bytes                 0",
    ]
    assert result.stderr.startswith("no node of eventstore answered within 0.01 s; ")
