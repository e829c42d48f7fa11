"""From counts, and from what a look at the database found, to families of prometheus-client."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.registry import Collector

from eventstore import __version__
from eventstore.counting import HANDLING, Handled, Histogram
from eventstore.errors import ConfigurationError
from eventstore.metrics.families import FAMILIES
from eventstore.metrics.looking import Look, Measured, looks_of
from eventstore.pubsub.hub import Stats
from eventstore.store import EventStore

__all__ = ["StoreCollector"]

WITHIN = 2.0
"""Seconds that `StoreCollector.refresh` waits for the database."""

OUTCOMES = ("handled", "parked", "skipped", "replayed")


@dataclass(frozen=True, slots=True)
class _Sample:
    """One series: the values of the family's labels, in their order, and its value."""

    labels: tuple[str, ...]
    value: float | Histogram


_Samples = Iterable[_Sample]


def _one(value: float | Histogram | None) -> list[_Sample]:
    return [] if value is None else [_Sample((), value)]


def _each(values: Iterable[tuple[str, float]]) -> list[_Sample]:
    return [_Sample((label,), value) for label, value in values]


class StoreCollector(Collector):
    """The metrics of one store; see `eventstore.metrics.collector`, which makes it."""

    def __init__(
        self,
        store: EventStore,
        *,
        subscriptions: int,
        at_head: bool,
        database: bool,
    ) -> None:
        if type(subscriptions) is not int or not 0 <= subscriptions <= 100_000:
            raise ConfigurationError(f"subscriptions must be a number from 0 to 100,000, not {subscriptions!r}")
        self.store, self._most, self._at_head, self._database = store, subscriptions, at_head, database
        self._looks, self._pubsub = looks_of(store, subscriptions), store.pubsub.stats()

    async def refresh(self, *, within: float = WITHIN) -> None:
        """Read what the database knows, unless that was done within the last second; fails never.

        Args:
            within: seconds to wait; after that ``eventstore_up`` is 0.
        """
        # Here and not in `collect`, which may run in another thread.
        self._pubsub = self.store.pubsub.stats()
        if self._database:
            await self._looks.latest(self.store, within)

    def describe(self) -> Iterable[Metric]:
        """Return nothing, so that registering asks for nothing."""
        return ()

    def collect(self) -> Iterator[Metric]:
        """Yield the families as of now. Only reads numbers, from whatever thread."""
        look = self._looks.last
        samples = {**_counted(self.store), **_broadcast(self._pubsub), **_handled(self.store, self._most)}
        if self._database:
            samples |= _looked(look, self._shown(look))
        where = {"schema": self.store.schema}
        if self.store.database.tenant is not None:
            where["tenant"] = self.store.database.tenant
        for name, some in samples.items():
            family = FAMILIES[name]
            metric = Metric(name.removesuffix("_total"), family.help, family.kind)
            for one in some:
                _add(metric, name, where | dict(zip(family.labels, one.labels, strict=True)), one.value)
            yield metric

    def _shown(self, look: Look | None) -> Sequence[Measured]:
        if look is None:
            return ()
        shown = look.subscriptions
        if not self._at_head:
            shown = [one for one in shown if one.behind or one.parked or one.halted or one.unowned > one.unhandled]
        return shown[: self._most]


def _add(metric: Metric, name: str, labels: dict[str, str], value: float | Histogram) -> None:
    if not isinstance(value, Histogram):
        metric.add_sample(name, labels, value)
        return
    # A copy: it grows while this thread reads it, and its buckets have to agree with its count.
    below, buckets = 0, list(value.buckets)
    for bound, count in zip((*value.bounds, float("inf")), buckets, strict=True):
        below += count
        metric.add_sample(f"{name}_bucket", {**labels, "le": "+Inf" if bound == float("inf") else str(bound)}, below)
    metric.add_sample(f"{name}_count", labels, below)
    metric.add_sample(f"{name}_sum", labels, value.sum)


def _counted(store: EventStore) -> dict[str, _Samples]:
    counts, signals, pools = store.counts, store._signals, store._pools
    emitters = pools.emitters
    connections = {"main": store._database, "control": store._control, "projections": store._lent}
    usage = {name: one.usage() for name, one in connections.items()}
    return {
        "eventstore_node_info": [_Sample((store.node_name, __version__), 1)],
        "eventstore_append_duration_seconds": _one(counts.append_seconds),
        "eventstore_appends_total": _each((one, counts.appends.get(one, 0)) for one in counts.OUTCOMES),
        "eventstore_append_failures_total": _each(list(counts.append_failures.items())),
        "eventstore_appended_events_total": _each(
            [("own", counts.events_stored), ("caller", counts.events_in_transactions)]
        ),
        "eventstore_read_pages_total": _each([("reads", counts.reads.pages), ("feed", counts.feed.pages)]),
        "eventstore_read_events_total": _each([("reads", counts.reads.events), ("feed", counts.feed.events)]),
        "eventstore_feed_delay_seconds": _one(counts.feed_seconds),
        "eventstore_feed_left_behind_total": _one(counts.left_behind),
        "eventstore_feed_polls_total": _one(counts.polls),
        "eventstore_signals_total": _each([("sent", counts.signals_sent), ("heard", counts.signals_heard)]),
        "eventstore_listening": _one(int(signals.listening)),
        "eventstore_listen_losses_total": _one(counts.listen_losses),
        "eventstore_listen_reconnects_total": _one(counts.listen_reconnects),
        "eventstore_clock_offset_seconds": _one(counts.clock_offset),
        "eventstore_pool_connections_limit": _each((name, one.limit) for name, one in usage.items()),
        "eventstore_pool_connections": [
            _Sample((name, state), value)
            for name, one in usage.items()
            for state, value in (("busy", one.busy), ("idle", one.opened - one.busy))
        ],
        "eventstore_pool_waiting": _each((name, one.waiting) for name, one in usage.items()),
        "eventstore_pool_connections_lost_total": _each((name, one.ended) for name, one in connections.items()),
        "eventstore_handlers_running": _one(sum(1 for one in emitters if one.in_hand is not None)),
        "eventstore_owned_partitions": _one(len(emitters)),
        "eventstore_partition_changes_total": _each(
            [
                ("claimed", counts.partitions_claimed),
                ("released", counts.partitions_released),
                ("lost", counts.partitions_lost),
                ("halted", counts.partitions_halted),
            ]
        ),
        "eventstore_emitter_crashes_total": _one(counts.crashes),
        "eventstore_leases_lost_total": _one(counts.leases_lost),
        "eventstore_lifecycle_dropped_total": _one(store.lifecycle.dropped),
        "eventstore_lifecycle_failed_total": _one(store.lifecycle.failed),
    }


def _broadcast(pubsub: Stats) -> dict[str, _Samples]:
    return {
        "eventstore_pubsub_broadcasts_total": _one(pubsub.broadcasts),
        "eventstore_pubsub_received_total": _one(pubsub.received),
        "eventstore_pubsub_rejected_total": _one(pubsub.rejected),
        "eventstore_pubsub_dropped": _one(pubsub.dropped),
        "eventstore_pubsub_topics": _one(pubsub.topics),
        "eventstore_pubsub_mailboxes": _one(pubsub.mailboxes),
        "eventstore_pubsub_adapter_events_total": _each(pubsub.adapter.items()),
    }


def _handled(store: EventStore, most: int) -> dict[str, _Samples]:
    """What handlers did: of all subscriptions together, and of each of the busiest."""
    every = list(store.counts.subscriptions)
    total = Handled()
    for one in (store.counts.subscriptions.forgotten, *(each for _, each in every)):
        total.add(one)
    busiest = every if len(every) <= most else heapq.nlargest(most, every, key=lambda each: each[1].handled)
    busiest.sort(key=lambda each: each[0])
    return {
        "eventstore_handler_duration_seconds": _one(total.seconds or Histogram(HANDLING)),
        "eventstore_handled_events_total": _each((outcome, getattr(total, outcome)) for outcome in OUTCOMES),
        "eventstore_failed_deliveries_total": _one(total.failed),
        "eventstore_subscription_handler_duration_seconds": [
            _Sample((name,), one.seconds) for name, one in busiest if one.seconds is not None
        ],
        "eventstore_subscription_handled_events_total": [
            _Sample((name, outcome), value)
            for name, one in busiest
            for outcome in OUTCOMES
            if (value := getattr(one, outcome)) or outcome == "handled"
        ],
        "eventstore_subscription_failed_deliveries_total": [_Sample((name,), one.failed) for name, one in busiest],
    }


def _looked(look: Look | None, shown: Sequence[Measured]) -> dict[str, _Samples]:
    if look is None:
        return {"eventstore_up": _one(0)}
    return {
        "eventstore_up": _one(1),
        "eventstore_look_duration_seconds": _one(look.took),
        "eventstore_horizon_position": _one(look.horizon),
        "eventstore_last_position": _one(look.last_position),
        "eventstore_horizon_age_seconds": _one(look.horizon_age),
        "eventstore_nodes": _each([("alive", look.nodes_alive), ("expired", look.nodes_expired)]),
        "eventstore_subscriptions": _each(look.sums["subscriptions"].items()),
        "eventstore_subscriptions_left_out": _one(sum(look.sums["subscriptions"].values()) - len(shown)),
        "eventstore_partitions": _each(look.sums["partitions"].items()),
        "eventstore_unhandled_partitions": _one(look.sums["unowned"]["unhandled"]),
        "eventstore_parked_events": _each(look.sums["parked"].items()),
        "eventstore_subscription_paused": [_Sample((one.name,), 1) for one in shown if one.paused],
        "eventstore_subscription_lag_positions": [_Sample((one.name,), one.behind) for one in shown],
        "eventstore_subscription_lag_seconds": [_Sample((one.name,), one.seconds) for one in shown],
        "eventstore_subscription_parked_events": [
            _Sample((one.name, state), value)
            for one in shown
            if one.parked
            for state, value in (("waiting", one.parked - one.replaying), ("replaying", one.replaying))
        ],
        "eventstore_subscription_troubled_partitions": [
            _Sample((one.name, state), value)
            for one in shown
            for state, value in (("halted", one.halted), ("unowned", one.unowned))
            if value
        ],
        "eventstore_subscription_unhandled_partitions": [
            _Sample((one.name,), one.unhandled) for one in shown if one.unhandled
        ],
    }
