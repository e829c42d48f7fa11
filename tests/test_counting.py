"""Counts: plain numbers, bounded however many subscriptions come and go."""

from __future__ import annotations

import pytest

from eventstore.counting import Counts, Handled, Histogram, Subscriptions


@pytest.mark.parametrize(("value", "bucket"), [(0.0, 0), (1.0, 0), (1.5, 1), (2.0, 1), (9.0, 2)])
def test_a_value_falls_into_the_first_bucket_whose_bound_it_does_not_exceed(value: float, bucket: int) -> None:
    histogram = Histogram((1.0, 2.0))
    histogram.observe(value)
    assert histogram.buckets.index(1) == bucket
    assert (histogram.count, histogram.sum) == (1, value)


def test_histograms_add_up() -> None:
    one, other = Histogram((1.0,)), Histogram((1.0,))
    for histogram, value in ((one, 0.5), (one, 3.0), (other, 4.0)):
        histogram.observe(value)
    one.add(other)
    assert (one.buckets, one.sum) == ([1, 2], 7.5)


def test_an_append_is_stored_repeated_or_left_to_its_callers_transaction() -> None:
    counts = Counts()
    counts.appended(3, 0.1, repeated=False, lent=False)
    counts.appended(3, 0.1, repeated=True, lent=False)
    counts.appended(2, 0.1, repeated=False, lent=True)
    counts.appended(2, 0.1, repeated=True, lent=True)
    counts.append_failed(LookupError(), 0.1)
    assert counts.appends == {"stored": 1, "repeated": 1, "in_transaction": 2}
    assert (counts.events_stored, counts.events_in_transactions) == (3, 2)
    assert (counts.append_failures, counts.append_seconds.count) == ({"LookupError": 1}, 5)


def total(subscriptions: Subscriptions) -> Handled:
    found = Handled()
    for one in (subscriptions.forgotten, *(each for _, each in subscriptions)):
        found.add(one)
    return found


def test_a_subscription_keeps_its_counts_while_it_runs() -> None:
    subscriptions, running = Subscriptions(kept=10), {f"s-{n}" for n in range(100)}
    for _ in range(2):
        for name in sorted(running):
            subscriptions.of(name, lambda: running).handled += 1
    assert {one.handled for _, one in subscriptions} == {2}


def test_those_that_run_no_more_are_forgotten_and_still_counted_in_all() -> None:
    subscriptions = Subscriptions(kept=10)
    for number in range(1_000):
        one = subscriptions.of(f"s-{number}", lambda: ())
        one.handled += 1
        one.took(0.1)
    assert len(subscriptions) <= 10
    assert (total(subscriptions).handled, total(subscriptions).seconds.count) == (1_000, 1_000)  # type: ignore[union-attr]


def test_a_deleted_subscription_drops_out_and_forgetting_it_twice_is_fine() -> None:
    subscriptions = Subscriptions()
    subscriptions.of("a", lambda: ()).failed += 2
    subscriptions.forget({"a", "b"})
    subscriptions.forget({"a"})
    assert (list(subscriptions), total(subscriptions).failed) == ([], 2)
