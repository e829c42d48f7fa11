"""What replicas say to each other and when, driven by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eventstore.errors import ConfigurationError, EventStoreError
from eventstore.pubsub import Local, PubSub
from eventstore.pubsub.codec import Codec
from eventstore.tracker.clocks import Replica
from eventstore.tracker.owners import Owner
from eventstore.tracker.protocol import MOST_IN_ONE, Message, Options, Outcome, Protocol
from eventstore.tracker.tracker import Tracker
from tests.hunt.racing import times

A, B, C = (Replica(name, "1") for name in "abc")
B2 = Replica("b", "2")
OPTIONS = Options(broadcast_period=1.0, max_silent_periods=5, permdown_period=100.0)
CODEC = Codec()


def ticks(protocol: Protocol, *times: float) -> list[Message]:
    """What it says at *times*."""
    return [outgoing.message for now in times for outgoing in protocol.tick(now).outgoing]


def kinds(messages: list[Message]) -> list[str]:
    return [message[0] for message in messages]


def keys(protocol: Protocol) -> list[Any]:
    return [presence.key for presence in protocol.state.get_by_topic("room")]


def joined(outcome: Outcome) -> list[Any]:
    return [presence.key for diff in outcome.diffs for presence in diff.joins]


def left(outcome: Outcome) -> list[Any]:
    return [presence.key for diff in outcome.diffs for presence in diff.leaves]


def tell(source: Protocol, to: Protocol, now: float = 0) -> Outcome:
    """Let *to* hear what *source* says at its next tick, as it comes over the wire."""
    whole = Outcome()
    for message in ticks(source, now):
        outcome = to.receive(CODEC.decode(CODEC.encode(message)), now)
        whole.outgoing += outcome.outgoing
        whole.diffs += outcome.diffs
    return whole


def join(protocol: Protocol, *keys: Any, owner: str = "anna") -> None:
    for key in keys:
        protocol.state.join(owner, "room", key, {})


def replicas(*names: Replica, options: Options = OPTIONS) -> list[Protocol]:
    """Replicas that know each other, whose first ticks are over."""
    protocols = [Protocol(name, options) for name in names]
    for source in protocols:
        for message in ticks(source, 0, 0):
            for other in protocols:
                other.receive(message, 0)
    for protocol in protocols:
        ticks(protocol, 0, 0)
    return protocols


def informed(*shown: Any) -> tuple[Protocol, Protocol]:
    """A replica that lists *shown* of another."""
    one, other = replicas(A, B)
    join(other, *shown)
    tell(other, one)
    assert keys(one) == list(shown)
    return one, other


# -- speaking


def test_the_first_tick_always_speaks() -> None:
    assert ticks(Protocol(A, OPTIONS), 0) == [("heartbeat", ["a", "1"], [["a", "1", 0]])]


@pytest.mark.parametrize("most", [1, 2, 5, 10])
def test_when_nothing_changes_there_is_one_heartbeat_in_max_silent_periods(most: int) -> None:
    protocol = Protocol(A, Options(max_silent_periods=most))
    spoke = [now for now in range(101) if ticks(protocol, now)]
    assert spoke == list(range(0, 101, most))


def test_a_change_is_told_at_the_next_tick_with_the_clock() -> None:
    protocol = Protocol(A, OPTIONS)
    ticks(protocol, 0, 1)
    join(protocol, "k")
    delta = [["a", "1", [[1, 1]], [[1, "room", "anna", "k", {}]]]]
    assert ticks(protocol, 2) == [("delta", ["a", "1"], delta, [["a", "1", 1]])]


def test_after_a_change_the_silence_begins_anew() -> None:
    protocol = Protocol(A, OPTIONS)
    ticks(protocol, 0, 1, 2)
    join(protocol, "k")
    assert [bool(ticks(protocol, now)) for now in range(3, 9)] == [True, False, False, False, False, True]


def test_a_newcomer_is_answered_at_the_next_tick() -> None:
    one, other = Protocol(A, OPTIONS), Protocol(B, OPTIONS)
    ticks(one, 0, 1)
    tell(other, one, 1)
    assert kinds(ticks(one, 2)) == ["heartbeat"]
    assert ticks(one, 3) == []


def test_a_large_change_is_split_and_arrives_whole() -> None:
    one, other = replicas(A, B)
    join(one, *range(2 * MOST_IN_ONE + 1))
    messages = ticks(one, 1)
    assert [len(message[2][0][3]) for message in messages] == [MOST_IN_ONE, MOST_IN_ONE, 1]
    for message in reversed(messages):
        other.receive(message, 1)
    assert keys(other) == keys(one)
    assert other.state.clock == one.state.clock


# -- asking and answering


@pytest.mark.parametrize("periods", [1, 2, 3])
def test_every_clock_sample_periods_ticks_who_is_behind_asks(periods: int) -> None:
    one, other = replicas(A, B, options=Options(clock_sample_periods=periods, max_silent_periods=100))
    ticks(one, *range(-one._ticks % periods))  # to the start of a sample
    join(other, "lost")
    ticks(other, 0)
    join(other, "k")
    tell(other, one)
    asked = [outgoing for now in range(periods) for outgoing in one.tick(now).outgoing]
    assert asked[-1:] == [("b", ("transfer_req", ["a", "1"], [["a", "1", 0], ["b", "1", 0]]))]
    assert ticks(one, *range(periods * 2)) == []


def test_who_is_behind_nobody_asks_nobody() -> None:
    one, other, third = replicas(A, B, C)
    join(one, "k")
    ticks(one, 0)
    for peer in (other, third):
        peer.speak()
        tell(peer, one)
    assert "transfer_req" not in kinds(ticks(one, 0, 0, 0, 0))


def test_only_undominated_clocks_are_asked() -> None:
    one, other, third = replicas(A, B, C)
    for lost in (True, False):
        join(other, lost)
        for message in ticks(other, 0):
            third.receive(message, 0)
    for peer in (other, third):
        peer.speak()
    join(third, "k")
    for peer in (other, third):
        tell(peer, one)
    asked = [outgoing.node for now in range(2) for outgoing in one.tick(now).outgoing if outgoing.node]
    assert asked == ["c"]


def answered(answering: Protocol, asking: Protocol) -> list[Message]:
    clock = [[*replica, dot] for replica, dot in asking.state.advertised.items()]
    outcome = answering.receive(("transfer_req", list(asking.replica), clock), 0)
    assert {outgoing.node for outgoing in outcome.outgoing} == {asking.replica.node}
    return [outgoing.message for outgoing in outcome.outgoing]


def test_the_answer_is_the_smallest_generation_that_covers_what_is_missing() -> None:
    small = Options(max_delta_sizes=(2, 100))
    one, other = replicas(A, B, options=small)
    for lost, key in [(False, 1), (False, 2), (True, 3), (True, 4)]:
        join(other, key)
        if lost:
            ticks(other, 0)
        else:
            tell(other, one)
    (message,) = answered(other, one)
    # The smallest holds the last only, the next all since the beginning.
    assert [value[3] for value in message[2][0][3]] == [1, 2, 3, 4]
    one.receive(message, 0)
    join(other, 5)
    ticks(other, 0)
    (message,) = answered(other, one)
    assert [value[3] for value in message[2][0][3]] == [5]
    one.receive(message, 0)
    assert keys(one) == [1, 2, 3, 4, 5]


def test_the_answer_is_else_everything_but_what_is_the_requesters() -> None:
    one, other = replicas(A, B, options=Options(max_delta_sizes=(1,)))
    join(other, *range(5))
    join(one, "own")
    tell(one, other)
    ticks(other, 0)
    join(other, 5)
    ticks(other, 0)
    (message,) = answered(other, one)
    assert [(part[0], len(part[3])) for part in message[2]] == [("b", 6)]
    one.receive(message, 0)
    assert keys(one) == ["own", *range(6)]


def test_a_large_transfer_is_split_and_arrives_whole_in_any_order() -> None:
    one, other = replicas(A, B)
    join(other, *range(3 * MOST_IN_ONE))
    other.state.leave("anna", "room", 7)
    ticks(other, 0)
    messages = answered(other, one)
    assert kinds(messages) == ["transfer_ack"] * 3
    for message in messages[1:] + messages[:1]:
        one.receive(CODEC.decode(CODEC.encode(message)), 0)
    assert keys(one) == keys(other)
    assert one.state.clock == other.state.clock


def test_a_lost_part_of_a_transfer_is_asked_for_again() -> None:
    one, other = replicas(A, B)
    join(other, *range(3 * MOST_IN_ONE))
    ticks(other, 0)
    one.receive(answered(other, one)[1], 0)
    (request,) = (outgoing for now in range(2) for outgoing in one.tick(now).outgoing)
    assert (request.node, request.message[0]) == ("b", "transfer_req")
    for outgoing in other.receive(request.message, 0).outgoing:
        one.receive(outgoing.message, 0)
    assert keys(one) == keys(other)


def test_the_clock_of_who_is_down_is_not_asked_for() -> None:
    one, _, third = replicas(A, B, C)
    down_here = OPTIONS.down + 1
    join(third, "k")
    tell(third, one, down_here)
    ticks(one, down_here)
    assert B not in one.state.advertised
    # The third still hears b, and has its news.
    ahead = ("heartbeat", ["c", "1"], [["a", "1", 0], ["b", "1", 7], ["c", "1", 1]])
    one.receive(ahead, down_here)
    assert "transfer_req" not in kinds(ticks(one, *[down_here] * 4))


# -- silence


def test_silence_hides_and_a_heartbeat_of_the_same_vsn_shows_again() -> None:
    one, other = informed("k")
    assert not one.tick(OPTIONS.down).diffs
    outcome = one.tick(OPTIONS.down + 0.1)
    assert (left(outcome), keys(one), one.state.advertised) == (["k"], [], {A: 0})
    assert not one.tick(OPTIONS.down + 1).diffs
    other.speak()
    outcome = tell(other, one, OPTIONS.down + 2)
    assert (joined(outcome), left(outcome), keys(one)) == (["k"], [], ["k"])
    assert one.state.advertised == {A: 0, B: 1}


def test_what_is_heard_while_it_is_down_shows_as_one_change_when_it_is_up() -> None:
    one, other = informed("k")
    one.tick(OPTIONS.down + 1)
    join(other, "new")
    outcome = tell(other, one, OPTIONS.down + 2)
    assert (joined(outcome), keys(one)) == (["k", "new"], ["k", "new"])


def test_long_silence_forgets() -> None:
    one, _ = informed("k")
    assert left(one.tick(101)) == ["k"]
    assert one.state.clock == {A: 0}


def test_long_silence_after_down_reports_nothing_twice() -> None:
    one, _ = informed("k")
    assert left(one.tick(50)) == ["k"]
    assert not one.tick(101).diffs
    assert one.state.clock == {A: 0}


def test_who_was_silent_for_long_and_speaks_again_is_welcome() -> None:
    one, other = informed("k")
    one.tick(101)
    other.speak()
    tell(other, one, 102)
    assert one.state.clock == {A: 0, B: 0}
    for outgoing in one.tick(102).outgoing + one.tick(103).outgoing:
        for answer in other.receive(outgoing.message, 103).outgoing:
            one.receive(answer.message, 103)
    assert keys(one) == ["k"]


# -- lives of a node


def test_a_new_vsn_makes_the_old_one_forgotten_at_once() -> None:
    one, _ = informed("k")
    again = Protocol(B2, OPTIONS)
    join(again, "new")
    outcome = tell(again, one)
    assert (left(outcome), joined(outcome), keys(one)) == (["k"], ["new"], ["new"])
    assert one.state.clock == {A: 0, B2: 1}


def test_late_messages_of_a_vsn_that_was_replaced_do_not_bring_it_back() -> None:
    one, other = informed("k")
    join(other, "late")
    (late,) = ticks(other, 0)
    tell(Protocol(B2, OPTIONS), one)
    for message in (late, ("heartbeat", *late[1::2]), ("permdown", late[1])):
        outcome = one.receive(message, OPTIONS.down)
        assert (outcome.outgoing, outcome.diffs, keys(one), one.state.clock) == ([], [], [], {A: 0, B2: 0})


def test_of_two_vsns_that_overtook_each_other_the_living_one_wins_within_down_period() -> None:
    (one,) = replicas(A)
    old, new = Protocol(B, OPTIONS), Protocol(B2, OPTIONS)
    tell(new, one)
    tell(old, one)
    assert one.state.clock == {A: 0, B: 0}
    for now in range(1, int(OPTIONS.down) + 7):
        one.tick(now)
        tell(new, one, now)
    assert one.state.clock == {A: 0, B2: 0}


def test_permdown_forgets_at_once_and_for_good() -> None:
    one, other = informed("k")
    other.speak()
    (late,) = ticks(other, 0)
    assert (left(one.receive(other.farewell(), 0)), keys(one)) == (["k"], [])
    one.tick(90)
    assert (one.receive(late, 90).diffs, one.state.clock) == ([], {A: 0})


def test_permdown_that_overtook_what_was_said_before_it_holds() -> None:
    (one,) = replicas(A)
    other = Protocol(B, OPTIONS)
    join(other, "late")
    one.receive(other.farewell(), 0)
    assert (tell(other, one).diffs, one.state.clock) == ([], {A: 0})


def test_what_was_gone_is_not_remembered_for_ever() -> None:
    one, other = informed("k")
    one.receive(other.farewell(), 0)
    one.tick(100.5)
    assert not one._gone


def test_permdown_of_another_vsn_forgets_nothing() -> None:
    one, _ = informed("k")
    assert not one.receive(("permdown", ["b", "2"]), 0).diffs
    assert not one.receive(("permdown", ["c", "1"]), 0).diffs
    assert keys(one) == ["k"]


def test_nobody_hears_itself() -> None:
    (one,) = replicas(A)
    join(one, "k")
    for message in (*ticks(one, 0), one.farewell()):
        assert one.receive(message, 0) == Outcome()
    assert keys(one) == ["k"]


# -- options


@pytest.mark.parametrize(
    "wrong",
    [
        {"down_period": 2.9},
        {"broadcast_period": 0},
        {"broadcast_period": float("nan")},
        {"permdown_period": 30.0},
        {"down_period": 50.0, "permdown_period": 49.0},
        {"max_silent_periods": 0},
        {"max_silent_periods": 1.5},
        {"max_silent_periods": True},
        {"clock_sample_periods": 0},
        {"max_delta_sizes": ()},
        {"max_delta_sizes": (0, 10)},
        {"max_delta_sizes": (10, 10)},
        {"max_delta_sizes": (100, 10)},
    ],
)
def test_options_that_cannot_work_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        Options(**wrong)


def test_options_by_default_are_those_of_phoenix() -> None:
    assert (Options().down, Options(down_period=3.0).down) == (30.0, 3.0)
    assert Options(max_delta_sizes=[1, 2]).max_delta_sizes == (1, 2)  # type: ignore[arg-type]


# -- any message at all

plain: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 9) | st.floats(allow_nan=False) | st.sampled_from(["", "a", "b", "1"]),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.lists(inner, max_size=5).map(tuple)
        | st.dictionaries(st.sampled_from("kl"), inner, max_size=2)
    ),
    max_leaves=20,
)
kind = st.sampled_from(["heartbeat", "delta", "transfer_req", "transfer_ack", "permdown", "", 1])
anything = plain | st.tuples(kind, plain) | st.tuples(kind, plain, plain) | st.tuples(kind, plain, plain, plain)


def said() -> list[Message]:
    """One message of each kind."""
    one, other, third = replicas(A, B, C)
    join(third, ("k", 1))
    tell(third, other)
    join(other, "first", 2, ("k", 1))
    other.state.leave("anna", "room", 2)
    delta, *_ = ticks(other, 0)
    other.speak()
    heartbeat, *_ = ticks(other, 0)
    request = ("transfer_req", ["b", "1"], [["a", "1", 0], ["b", "1", 0], ["c", "1", 0]])
    return [delta, heartbeat, request, *answered(other, one), other.farewell()]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    steps: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    return [path, *(deeper for step in steps for deeper in places(value[step], (*path, step)))]


def changed(message: Message, place: int, new: Any) -> Message:
    """*message* with something else in one place."""
    within: Any = [copy.deepcopy(list(message))]
    path = (0, *(found := places(list(message)))[place % len(found)])
    target = within
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = new
    result = within[0]
    return tuple(result) if isinstance(result, list) else result


SAID = said()
mutated = st.builds(changed, st.sampled_from(SAID), st.integers(0, 99), plain)


def only_value_errors(message: Any, receive: Callable[[Protocol, Any], object]) -> bool:
    """Hand over *message*; tell whether it was taken, and that was all or nothing."""
    one, other, _ = replicas(A, B, C)
    join(other, "there")
    tell(other, one)
    try:
        receive(one, message)
    except ValueError:
        assert (keys(one), one.state.clock) == (["there"], {A: 0, B: 1, C: 0})
        return False
    one.tick(1)
    one.tick(2)
    return True


@settings(max_examples=times(100, 10_000), deadline=None)
@given(anything | mutated)
def test_a_malformed_message_raises_value_errors_only_and_changes_nothing(message: Any) -> None:
    only_value_errors(message, lambda protocol, heard: protocol.receive(heard, 0))


def test_the_messages_that_are_mutated_are_sound_ones() -> None:
    assert kinds(SAID) == ["delta", "heartbeat", "transfer_req", "transfer_ack", "permdown"]
    assert all(only_value_errors(message, lambda protocol, heard: protocol.receive(heard, 0)) for message in SAID)


def test_a_message_that_is_taken_in_before_it_is_checked_is_caught() -> None:
    def careless(protocol: Protocol, message: Any) -> None:
        if message[0] == "delta":
            protocol._heard(B2, 0, Outcome())
        protocol.receive(message, 0)

    with pytest.raises(AssertionError):
        only_value_errors(("delta", ["b", "2"], [["b", "2", [[1, 0]], []]], []), careless)
    with pytest.raises(TypeError):
        only_value_errors(None, lambda _, message: message[0])


@pytest.mark.parametrize("message", SAID, ids=kinds(SAID))
def test_what_is_said_survives_the_codec_of_pubsub(message: Message) -> None:
    back = CODEC.decode(CODEC.encode(message))
    assert back == message
    assert all(type(one) is type(other) for one, other in zip(back, message, strict=True))


@given(st.lists(st.integers(1, 5), max_size=6))
def test_what_is_said_is_read_as_what_was_meant(counts: list[int]) -> None:
    one, other = replicas(A, B)
    for batch, (count, following) in enumerate(pairwise([*counts, 0])):
        join(one, *(("k", batch, n) for n in range(count)))
        if following % 2:
            one.state.leave("anna", "room", ("k", batch, 0))
        tell(one, other)
        assert other.state.get_by_topic("room") == one.state.get_by_topic("room")


# -- what could not be said later


async def test_a_presence_that_no_delta_could_hold_is_refused_before_it_is_tracked() -> None:
    class Handler:
        async def handle_diff(self, diff: Any, state: Any) -> Any:
            return state

    def nested(levels: int, around: Callable[[Any], Any]) -> Any:
        return around(nested(levels - 1, around)) if levels else 0

    async with PubSub("p", Local()) as pubsub, Tracker(Handler(), "t", pubsub) as tracker, Owner() as owner:
        for key, meta in [
            ("k", nested(60, lambda inner: {"x": inner})),
            (nested(40, lambda inner: (inner,)), {}),
            ((1, frozenset()), {}),
            ({}, {}),
        ]:
            with pytest.raises(EventStoreError):
                await tracker.track(owner, "room", key, meta)
        await tracker.track(owner, "room", nested(32, lambda inner: (inner,)), nested(59, lambda inner: {"x": inner}))
        protocol = tracker._shards[0].protocol
        protocol.speak()
        (message,) = ticks(protocol, 0)[:1] if protocol.state.has_delta else answered(protocol, Protocol(B, OPTIONS))
        _, other = replicas(A, B)
        other.receive(CODEC.decode(CODEC.encode(message)), 0)
        assert len(keys(other)) == 1
