from __future__ import annotations

from typing import Any

from eventstore.mailbox import Mailbox
from eventstore.pubsub import PubSub
from eventstore.pubsub.hub import Stats
from eventstore.reports.topics import read_topics


def stats(node: str, **counters: Any) -> Stats:
    numbers = dict.fromkeys(
        ("pool_size", "topics", "subscriptions", "mailboxes", "broadcasts", "received", "dropped", "rejected"), 0
    )
    return Stats("eventstore", node, **numbers | {"busiest": {}, "adapter": {}} | counters)


class Cluster:
    """Answers as the nodes of a PubSub would, one list after the other."""

    def __init__(self, *answers: list[Stats]) -> None:
        self._answers = list(answers)

    async def cluster_stats(self, *, within: float) -> list[Stats]:
        return self._answers.pop(0)


async def looks(*answers: list[Stats]) -> list[Any]:
    """One look after the other, two seconds apart."""
    cluster: Any = Cluster(*answers)
    found: list[Any] = []
    for number in range(len(answers)):
        before = found[-1] if found else None
        found.append(await read_topics(cluster, before, clock=lambda at=number * 2.0: at))
    return found


async def test_rates_are_told_from_the_second_look_on() -> None:
    first, second = await looks(
        [stats("a", broadcasts=10, received=4, dropped=1)], [stats("a", broadcasts=30, received=5, dropped=1)]
    )
    assert [first.nodes[0].broadcasts_per_second, second.nodes[0].broadcasts_per_second] == [None, 10.0]
    assert (second.nodes[0].received_per_second, second.nodes[0].dropped_per_second) == (0.5, 0.0)


async def test_a_node_that_began_anew_has_no_rate_yet() -> None:
    _, second = await looks([stats("a", broadcasts=10)], [stats("a", broadcasts=3), stats("b", broadcasts=1)])
    assert [one.broadcasts_per_second for one in second.nodes] == [None, None]


async def test_topics_of_all_nodes_are_put_together_the_liveliest_first() -> None:
    _, second = await looks(
        [stats("a", busiest={"x": 3}, messages={"x": 10, "y": 100}), stats("b", messages={"x": 1})],
        [stats("a", busiest={"x": 2, "z": 9}, messages={"x": 14, "y": 102}), stats("b", messages={"x": 5})],
    )
    assert [(one.topic, one.subscriptions, one.messages, one.per_second, one.nodes) for one in second.topics] == [
        ("x", 2, 19, 4.0, 2), ("y", 0, 102, 1.0, 1), ("z", 9, 0, None, 1)
    ]  # fmt: skip


async def test_twenty_topics_are_shown() -> None:
    (one,) = await looks([stats("a", messages={f"t{number}": number for number in range(40)})])
    assert [row.topic for row in one.topics] == [f"t{number}" for number in range(39, 19, -1)]


async def test_messages_are_counted_from_the_first_look_on_and_forgotten_with_the_last_subscriber() -> None:
    async with PubSub("p") as pubsub:
        mailbox = Mailbox[Any](10)
        pubsub.subscribe("x", mailbox)
        await pubsub.broadcast("x", 1)
        assert (await read_topics(pubsub, within=0)).nodes[0].stats.messages == {}
        for _ in range(2):
            await pubsub.broadcast("x", 1)
        await pubsub.broadcast("nobody", 1)
        assert (await read_topics(pubsub, within=0)).nodes[0].stats.messages == {"x": 2}
        pubsub.unsubscribe("x", mailbox)
        assert (await read_topics(pubsub, within=0)).topics == []


async def test_once_nobody_looks_messages_are_not_counted_any_more() -> None:
    async with PubSub("p") as pubsub:
        mailbox = Mailbox[Any](10)
        pubsub.subscribe("x", mailbox)
        await pubsub.cluster_stats(within=0)
        await pubsub.broadcast("x", 1)
        pubsub._forget_messages()
        await pubsub.broadcast("x", 1)
        assert pubsub.stats().messages == {}
