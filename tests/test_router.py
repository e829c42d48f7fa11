"""The router finds exactly those whose selector matches, whatever was added and removed before."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from eventstore import router as module
from eventstore.events import Event
from eventstore.log.read import Share
from eventstore.router import Indexed, Router
from eventstore.selectors import All, EventPattern, EventPayload, EventType, Selector, Stream, Tags
from tests.hunt.racing import times
from tests.test_selectors import a_selector, event, some_events

RANDOMS = st.randoms(use_true_random=True)


def events_of(rng: Random) -> list[Event]:
    return [replace(one, bucket=rng.randrange(1024)) for one in some_events(rng)]


def routed(*selectors: Selector) -> Router[int]:
    router: Router[int] = Router()
    for target, selector in enumerate(selectors):
        router.add(target, selector)
    return router


def is_wrong(rng: Random) -> bool:
    """Tell whether a router of random selectors finds others for random events than asking each selector does."""
    events = events_of(rng)
    selectors = [a_selector(rng, events, levels=3) for _ in range(rng.randint(1, 30))]
    router = routed(*selectors)
    return any(
        router.route(one) != [target for target, selector in enumerate(selectors) if selector.matches(one)]
        for one in events
    )


# -- who is found


@settings(deadline=None, max_examples=times(150, 5_000))
@given(rng=RANDOMS)
def test_routing_finds_what_asking_every_selector_finds(rng: Random) -> None:
    assert not is_wrong(rng)


class Routing(RuleBasedStateMachine):
    """A router next to a plain dict of selectors and shares."""

    @initialize(rng=RANDOMS)
    def begin(self, rng: Random) -> None:
        self.events = events_of(rng)
        self.router: Router[int] = Router()
        self.known: dict[int, tuple[Selector, Share | None]] = {}

    @rule(name=st.integers(0, 30), rng=RANDOMS)
    def add(self, name: int, rng: Random) -> None:
        if name not in self.known:
            modulus = rng.randint(1, 4)
            share = rng.choice([None, Share(modulus, rng.randrange(modulus))])
            self.known[name] = (a_selector(rng, self.events), share)
            self.router.add(name, self.known[name][0], share and (share.modulus, share.remainder))

    @precondition(lambda self: self.known)
    @rule(data=st.data())
    def remove(self, data: st.DataObject) -> None:
        target = data.draw(st.sampled_from(list(self.known)))
        del self.known[target]
        self.router.remove(target)

    @invariant()
    def finds_what_asking_finds(self) -> None:
        assert len(self.router) == len(self.known)
        for one in self.events:
            wanted = [
                target
                for target, (selector, share) in self.known.items()
                if (share is None or one in share) and selector.matches(one)
            ]
            assert self.router.route(one) == wanted

    def teardown(self) -> None:
        for target in self.known:
            self.router.remove(target)
        assert self.router._index == {}
        assert self.router._filed == {}


TestRouting = Routing.TestCase
TestRouting.settings = settings(deadline=None, max_examples=times(50, 2_000), stateful_step_count=30)


def only_the_first_branch(parts: list[Any], matches: Any) -> Any:
    return parts[0] if parts else {}


def no_residual(parts: list[Any], matches: Any, cheapest: Callable[[Any], Any]) -> Any:
    return cheapest(parts) if parts else module._SELECTED


def true_is_one(value: Any, token: Callable[[Any], Any] = module._token) -> Any:
    return token(int(value) if type(value) is bool else value)


@pytest.mark.parametrize(
    ("name", "bug"),
    [
        ("_any_of", only_the_first_branch),
        ("_all_of", no_residual),
        ("_token", true_is_one),
        ("_decimal", lambda number: number),
        ("_decides", lambda value: True),
    ],
)
def test_a_planted_bug_is_caught(monkeypatch: pytest.MonkeyPatch, name: str, bug: Any) -> None:
    monkeypatch.setattr(module, name, bug)
    assert any(is_wrong(Random(seed)) for seed in range(2_000))


@pytest.mark.parametrize(
    ("operators", "found"),
    [
        ({"$gt": 5}, [6]),
        ({"$gte": 5, "$ne": 6}, [5]),
        ({"$lt": 5}, []),
        ({"$in": [4, 5.0, True]}, [5]),
        ({"$exists": False}, [None]),
        ({"$exists": True}, [5, 6]),
    ],
)
def test_what_a_key_cannot_decide_is_asked(operators: Any, found: list[Any]) -> None:
    router = routed(EventPayload({"kind": "x", "total": operators}))
    data = [{"kind": "x", "total": 5}, {"kind": "x", "total": 6}, {"kind": "x"}, {"kind": "y", "total": 6}]
    assert [one.get("total") for one in data if router.route(event(one))] == found


def test_an_event_is_found_by_numbers_as_the_algebra_compares_them() -> None:
    router = routed(EventPayload({"a": 1}), EventPayload({"a": True}), EventPayload({"a": 1e23}))
    assert [router.route(event({"a": value})) for value in (1.0, True, 10**23, 10**23 + 1)] == [[0], [1], [2], []]


def test_a_target_found_twice_is_told_once_and_in_the_order_of_addition() -> None:
    router = routed(EventType("A") | Stream("order-1"), All(), Tags("x", "y", match="any"))
    router.remove(0)
    router.add(0, EventType("A") | Stream("order-1"))
    assert router.route(event(tags=("y", "x"))) == [1, 2, 0]


def test_a_share_keeps_the_events_of_its_buckets() -> None:
    router: Router[str] = Router()
    for remainder in range(3):
        router.add(f"p{remainder}", EventType("A"), (3, remainder))
    assert [router.route(event(bucket=bucket)) for bucket in (0, 4, 1023)] == [["p0"], ["p1"], ["p0"]]


# -- adding and removing


@pytest.mark.parametrize("share", [(0, 0), (2, 2), (2, -1)])
def test_what_is_no_share_is_refused_and_leaves_nothing(share: tuple[int, int]) -> None:
    router: Router[int] = Router()
    with pytest.raises(ValueError, match="share"):
        router.add(1, All(), share)
    assert (len(router), router._index) == (0, {})


def test_a_target_is_added_once() -> None:
    router = routed(All())
    with pytest.raises(ValueError, match="remove it first"):
        router.add(0, All())
    router.remove(0)
    router.remove(0)
    assert 0 not in router
    assert router.route(event()) == []


def test_conjunctions_share_no_bucket_while_another_part_tells_them_apart() -> None:
    router = routed(*[Tags("common", f"customer:{n}") & EventType("A") for n in range(100)])
    assert max(map(len, router._index["tag"].values())) <= 2


# -- faults


class Odd(Exception):
    pass


def failing(selector: Selector) -> Selector:
    def fail(_: Event) -> bool:
        raise Odd

    selector.__dict__["matches"] = fail
    return selector


def test_a_residual_that_raises_is_reported_and_keeps_nobody_else_from_the_event() -> None:
    failures: list[Any] = []
    router: Router[int] = Router(lambda *failure: failures.append(failure))
    router.add(1, failing(EventPayload({"a": {"$gt": 1}})))
    router.add(2, EventPayload({"a": 2}))
    router.add(3, failing(EventPayload({"a": {"$gt": 1}})) | EventType("A"))
    assert router.route(one := event({"a": 2})) == [2, 3]
    [(target, at, error)] = failures
    assert (target, at, type(error)) == (1, one, Odd)


def test_a_failure_nobody_asks_for_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert routed(failing(EventPattern("a*b"))).route(event(stream="ab")) == []
    assert "selector failed on the event at 1" in caplog.text


@pytest.mark.parametrize(
    "data",
    [
        {"a": float("nan")},
        {"a": [float("inf")]},
        {"a": {1, 2}},
        {"a": b"x", 1: 2},
        {"a": Odd()},
        {"a": [[[]]]},
        float("nan"),
        Odd(),
    ],
)
def test_data_that_is_no_json_breaks_nothing(data: Any) -> None:
    patterns: list[Any] = [{"a": 1}, {"a": {"b": {"$gt": 1}}}, {"a": {"$lt": 1}}, {"$eq": 1}]
    assert routed(*map(EventPayload, patterns), All()).route(event(data)) == [4]


# -- explain


@pytest.mark.parametrize(
    ("selector", "keys"),
    [
        (All(), ["any event"]),
        (Stream("order-1"), ['stream = "order-1"']),
        (EventType("A", "B"), ['type = "A"', 'type = "B"']),
        (Tags("x", "y"), ['tag = "x" +']),
        (Tags("x", "y", match="any"), ['tag = "x"', 'tag = "y"']),
        (EventPattern("order-*"), ['stream starts with "order-"']),
        (EventPattern("order-?-*"), ['stream starts with "order-" +']),
        (EventPattern("order-1"), ['stream = "order-1"']),
        (EventPattern({"type": "A", "version": 1}), ["version = 1 +"]),
        (EventPattern({"tags": ["x", "y"]}), ['tag = "x" +']),
        (EventPattern({"stream": {"$exists": True}}), ["any event"]),
        (EventPattern({"id": "x"}), ["any event +"]),
        (EventPayload({}), ["any event +"]),
        (EventPayload({"a": {"b": True}}), ["data.a.b = true"]),
        (EventPayload({"a": {"$in": ["x", None, 1]}}), ['data.a = "x"', "data.a = null", "data.a = 1"]),
        (EventPayload({"a": {"$in": []}}), []),
        (EventPayload({"a": {"$gt": 1}}), ["data.a is present +"]),
        (EventPayload({"a": {"$exists": True}}), ["data.a is present"]),
        (EventPayload({"a": {"$exists": False}}), ["any event +"]),
        (EventPayload({"a": {"$gt": 1}, "b": 2}), ["data.b = 2 +"]),
        (EventPayload({"a": [1, 2]}), ["data.a is a list of 2 +"]),
        (EventPayload({"a": {"$eq": {"b": 1}}}), ["data.a.b = 1 +"]),
        (EventType("A") & All(), ['type = "A"']),
        (EventType("A") & Tags("x"), ['tag = "x" +']),
        (EventType("A") | Tags("x") & EventType("B"), ['type = "A"', 'tag = "x" +']),
        (EventType("A") & Tags("x") | Tags("x"), ['tag = "x"']),
        (EventType("A") | EventPayload({}), ["any event +"]),
    ],
)
def test_explain_names_the_keys_and_what_is_asked_besides(selector: Selector, keys: list[str]) -> None:
    router: Router[int] = Router()
    assert [f"{key}{' +' * residual}" for key, residual in router.explain(selector)] == keys
    assert router._index == {}


def test_explain_goes_by_what_is_filed_already() -> None:
    router = routed(*[Tags("x")] * 9)
    assert router.explain(EventType("A") & Tags("x")) == [Indexed('type = "A"', True)]
