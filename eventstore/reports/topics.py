"""PubSub: topics, subscriptions and messages of every node, and how many a second."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import monotonic

from eventstore.pubsub.hub import PubSub, Stats

__all__ = ["NodeTopics", "TopicRow", "Topics", "read_topics"]

SHOWN_TOPICS = 20


@dataclass(frozen=True, slots=True)
class NodeTopics:
    """The PubSub of one node.

    Attributes:
        stats: its counters.
        broadcasts_per_second, received_per_second, dropped_per_second: since the last look; None: it is the first one
            at this node, or its counters began anew.
    """

    node: str
    stats: Stats
    broadcasts_per_second: float | None
    received_per_second: float | None
    dropped_per_second: float | None


@dataclass(frozen=True, slots=True)
class TopicRow:
    """One topic, of those with the most subscriptions or messages on a node.

    Attributes:
        subscriptions: on all nodes that list it among theirs.
        messages: that came for its subscribers on those nodes, since they were asked first; see `Stats.messages`.
        per_second: since the last look; None: it is the first one at this topic.
        nodes: how many nodes list it.
    """

    topic: str
    subscriptions: int
    messages: int
    per_second: float | None
    nodes: int


@dataclass(frozen=True, slots=True)
class Topics:
    """What the nodes answered.

    Attributes:
        at: seconds of this process's monotonic clock, for the next look.
        nodes: by name; `store.nodes()` tells who should have answered.
        topics: those with the most messages a second first, then messages, then subscriptions; at most twenty.
    """

    at: float
    nodes: Sequence[NodeTopics]
    topics: Sequence[TopicRow]


async def read_topics(
    pubsub: PubSub, before: Topics | None = None, *, within: float = 0.3, clock: Callable[[], float] = monotonic
) -> Topics:
    """Ask every node that answers *within* seconds; no query, but a message to all nodes.

    Raises:
        BroadcastError, PubSubClosed: as `PubSub.cluster_stats`.
    """
    at = clock()
    answers = await pubsub.cluster_stats(within=within)
    passed = 0.0 if before is None else at - before.at
    old_nodes = {} if before is None else {one.node: one.stats for one in before.nodes}
    nodes = [_node(stats, old_nodes.get(stats.node), passed) for stats in answers]
    return Topics(at, nodes, _topics(answers, old_nodes, passed))


def _node(stats: Stats, old: Stats | None, passed: float) -> NodeTopics:
    def rate(name: str) -> float | None:
        return None if old is None else _rate(getattr(stats, name), getattr(old, name), passed)

    return NodeTopics(stats.node, stats, rate("broadcasts"), rate("received"), rate("dropped"))


def _rate(now: int, then: int | None, passed: float) -> float | None:
    """Return how many a second; None if that cannot be told, as when a counter began anew."""
    return None if then is None or now < then or passed <= 0 else (now - then) / passed


def _topics(answers: Sequence[Stats], old: Mapping[str, Stats], passed: float) -> list[TopicRow]:
    names = {name for stats in answers for name in (*stats.busiest, *stats.messages)}
    rows = [_topic(name, answers, old, passed) for name in names]
    rows.sort(key=lambda row: (-(row.per_second or 0), -row.messages, -row.subscriptions, row.topic))
    return rows[:SHOWN_TOPICS]


def _topic(name: str, answers: Sequence[Stats], old: Mapping[str, Stats], passed: float) -> TopicRow:
    here = [stats for stats in answers if name in stats.busiest or name in stats.messages]
    # Of nodes that listed it both times: one that lists it for the first time may have counted for long.
    rates = [
        _rate(stats.messages[name], old[stats.node].messages[name], passed)
        for stats in here
        if name in stats.messages and stats.node in old and name in old[stats.node].messages
    ]
    known = [rate for rate in rates if rate is not None]
    return TopicRow(
        name,
        sum(stats.busiest.get(name, 0) for stats in here),
        sum(stats.messages.get(name, 0) for stats in here),
        sum(known) if known else None,
        len(here),
    )
