"""Every metric there is: its name, type, labels and meaning. `docs/metrics.md` has the same table."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["FAMILIES", "Family"]


@dataclass(frozen=True, slots=True)
class Family:
    """One metric.

    Attributes:
        name: as it is queried; of a histogram without ``_bucket``, ``_sum`` and ``_count``.
        labels: those beside ``schema``, which all have.
        database: it is read from the database, and is the same on every node; otherwise this node counts it.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    database: bool = False


def _counter(name: str, help: str, *labels: str) -> Family:
    return Family(f"{name}_total", "counter", help, labels)


def _gauge(name: str, help: str, *labels: str) -> Family:
    return Family(name, "gauge", help, labels)


def _histogram(name: str, help: str, *labels: str) -> Family:
    return Family(name, "histogram", help, labels)


def _read(name: str, help: str, *labels: str) -> Family:
    return Family(name, "gauge", help, labels, database=True)


def _prefixed(families: Iterable[Family]) -> dict[str, Family]:
    return {one.name: one for one in families}


FAMILIES = _prefixed(
    (
        _gauge("eventstore_node_info", "Always 1: which node this is.", "node", "version"),
        _histogram("eventstore_append_duration_seconds", "Time of an append call, whatever came of it."),
        _counter("eventstore_appends", "Append calls that succeeded, by outcome.", "outcome"),
        _counter("eventstore_append_failures", "Append calls that failed, by error.", "error"),
        _counter("eventstore_appended_events", "Events appended by this node, by whose transaction.", "transaction"),
        _counter("eventstore_read_pages", "Pages of the log that were read, by reader.", "reader"),
        _counter("eventstore_read_events", "Events in these pages, by reader.", "reader"),
        _histogram("eventstore_feed_delay_seconds", "Age of the first event of a page when the feed handed it over."),
        _counter("eventstore_feed_left_behind", "How often the feed was too fast for a consumer."),
        _counter("eventstore_feed_polls", "Looks of the feed that no signal asked for."),
        _counter("eventstore_signals", "Signals, by direction.", "direction"),
        _gauge("eventstore_listening", "Whether the LISTEN connection is up; 0 as well where there is none."),
        _counter("eventstore_listen_losses", "How often the LISTEN connection was lost."),
        _counter("eventstore_listen_reconnects", "How often it came back."),
        _gauge("eventstore_clock_offset_seconds", "How far the database's clock is ahead of this node's."),
        _gauge("eventstore_pool_connections_limit", "Most connections of a pool.", "pool"),
        _gauge("eventstore_pool_connections", "Open connections of a pool, by state.", "pool", "state"),
        _gauge("eventstore_pool_waiting", "Calls that wait for a connection of the pool.", "pool"),
        _counter("eventstore_pool_connections_lost", "Connections that ended without being closed.", "pool"),
        _histogram("eventstore_handler_duration_seconds", "Time of a handler call, of any subscription."),
        _counter("eventstore_handled_events", "Events of all subscriptions, by what came of them.", "outcome"),
        _counter("eventstore_failed_deliveries", "Deliveries that failed, each attempt, of all subscriptions."),
        _gauge("eventstore_handlers_running", "Handler calls under way."),
        _gauge("eventstore_owned_partitions", "Partitions that this node runs."),
        _histogram(
            "eventstore_subscription_handler_duration_seconds", "Time of a handler call, by subscription.",
            "subscription",
        ),
        _counter(
            "eventstore_subscription_handled_events", "Events of a subscription, by what came of them.",
            "subscription", "outcome",
        ),
        _counter(
            "eventstore_subscription_failed_deliveries", "Deliveries that failed, each attempt.", "subscription"
        ),
        _counter("eventstore_partition_changes", "Partitions claimed, released, lost and halted here.", "change"),
        _counter("eventstore_emitter_crashes", "Emitters that ended by an error of their own."),
        _counter("eventstore_leases_lost", "How often this node lost its lease, and all its partitions."),
        _counter("eventstore_lifecycle_dropped", "Lifecycle messages that were not sent: too many waited."),
        _counter("eventstore_lifecycle_failed", "Lifecycle messages that could not be sent."),
        _counter("eventstore_pubsub_broadcasts", "Broadcasts of this node's PubSub."),
        _counter("eventstore_pubsub_received", "Messages of other nodes that were delivered here."),
        _counter("eventstore_pubsub_rejected", "What arrived and was no message of this cluster."),
        _gauge("eventstore_pubsub_dropped", "Messages that the mailboxes subscribed now have lost."),
        _gauge("eventstore_pubsub_topics", "Topics with subscribers here."),
        _gauge("eventstore_pubsub_mailboxes", "Mailboxes that are subscribed here."),
        _counter("eventstore_pubsub_adapter_events", "What the adapter of PubSub counts.", "event"),
        _read("eventstore_up", "Whether the database answered; 0: everything read from it is left out."),
        _read("eventstore_look_duration_seconds", "Time it took to read what follows."),
        _read("eventstore_horizon_position", "Position up to which readers see everything."),
        _read("eventstore_last_position", "Last position drawn."),
        _read("eventstore_horizon_age_seconds", "How long the oldest append that holds the horizon lasts; 0: none."),
        _read("eventstore_nodes", "Nodes, by whether their lease runs.", "state"),
        _read("eventstore_subscriptions", "Stored subscriptions.", "state"),
        _read("eventstore_subscriptions_left_out", "Subscriptions without series of their own, beyond the limit."),
        _read("eventstore_partitions", "Partitions of all subscriptions.", "state"),
        _read("eventstore_unhandled_partitions", "Of the unowned ones, those that no live node has a handler for."),
        _read("eventstore_parked_events", "Events set aside, of all subscriptions.", "state"),
        _read("eventstore_subscription_paused", "1 for each that is paused; others have no series.", "subscription"),
        _read("eventstore_subscription_lag_positions", "Positions between checkpoint and horizon.", "subscription"),
        _read("eventstore_subscription_lag_seconds", "Age of the first event after the checkpoint.", "subscription"),
        _read(
            "eventstore_subscription_parked_events", "Events set aside; no series where there is none.",
            "subscription", "state",
        ),
        _read(
            "eventstore_subscription_troubled_partitions",
            "Partitions that nobody runs, and halted ones; no series where there is none.",
            "subscription", "state",
        ),
        _read(
            "eventstore_subscription_unhandled_partitions",
            "Of its unowned partitions, those that no live node has a handler for; no series where there is none.",
            "subscription",
        ),
    )
)  # fmt: skip
