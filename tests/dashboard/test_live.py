from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import Any
from urllib.parse import parse_qsl

import pytest
from starlette.applications import Starlette

from eventstore import EventStore, EventType, NewEvent
from eventstore.dashboard import dashboard
from eventstore.dashboard.live import HEARTBEAT, LASTS, EventStream, event
from eventstore.dashboard.refusals import Refused
from eventstore.dashboard.routes import resolve
from eventstore.dashboard.sampler import HISTORY, Sampler, Subject
from eventstore.service import Clock, LoopClock
from tests.dashboard.conftest import Stream, watch


class Hands:
    """A clock that stands still until a test turns it."""

    def __init__(self) -> None:
        self._time, self.back = 1_000.0, 0.0
        self._turned = asyncio.Event()

    def time(self) -> float:
        return self._time

    def now(self) -> float:
        """What a clock on the wall says, which may be set back."""
        return self._time - self.back

    async def sleep(self, seconds: float) -> None:
        until = self._time + seconds
        while self._time < until:
            await self._turned.wait()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        until = self._time + seconds
        while not event.is_set() and self._time < until:
            turned, waited = asyncio.ensure_future(self._turned.wait()), asyncio.ensure_future(event.wait())
            await asyncio.wait((turned, waited), return_when=asyncio.FIRST_COMPLETED)
            turned.cancel()
            waited.cancel()
        return event.is_set()

    async def turn(self, seconds: float) -> None:
        """Let time pass, and all who waited for that do what they wanted to."""
        self._time += seconds
        self._turned.set()
        self._turned = asyncio.Event()
        for _ in range(20):
            await asyncio.sleep(0)


class Page:
    """Something to look at that counts its looks."""

    def __init__(self, text: str = "first") -> None:
        self.text, self.looks, self.rendered, self.befores = text, 0, 0, list[Any]()
        self.error: Exception | None = None

    async def read(self, before: Any) -> str:
        self.looks += 1
        self.befores.append(before)
        if self.error is not None:
            raise self.error
        return self.text

    def render(self, data: str) -> str:
        self.rendered += 1
        return f"<p>{data}</p>"

    @property
    def subject(self) -> Subject:
        return Subject("page", self.read, lambda data: {"length": float(len(data))})


@pytest.fixture
def hands() -> Hands:
    return Hands()


@pytest.fixture
async def sampler(hands: Hands) -> AsyncIterator[Sampler]:
    made = Sampler(clock=hands, now=hands.now)
    yield made
    await made.close()


async def looked(sampler: Sampler, hands: Hands, seconds: float = 1.0) -> None:
    """Let the next look happen."""
    moment = sampler.moments.next("looked")
    await hands.turn(seconds)
    await moment


# -- the sampler


async def test_fifty_viewers_are_one_look_and_one_rendering(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with AsyncExitStackOf(sampler, page, 50) as viewers:
        await sampler.moments.next("looked")
        assert {viewer.part() for viewer in viewers} == {"<p>first</p>"}
        page.text = "second"
        await looked(sampler, hands)
        assert {viewer.part() for viewer in viewers} == {"<p>second</p>"}
    assert (page.looks, page.rendered) == (2, 2)


class AsyncExitStackOf:
    """Several viewers of one page."""

    def __init__(self, sampler: Sampler, page: Page, count: int) -> None:
        self._watching = [sampler.watching(page.subject, "key", page.render) for _ in range(count)]

    def __enter__(self) -> list[Any]:
        return [one.__enter__() for one in self._watching]

    def __exit__(self, *_: object) -> None:
        for one in self._watching:
            one.__exit__(None, None, None)


async def test_nobody_looks_while_nobody_watches(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render):
        await sampler.moments.next("looked")
    for _ in range(5):
        await hands.turn(1)
    assert page.looks == 1
    assert not sampler._tasks._tasks


async def test_what_has_not_changed_is_not_sent_again(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render) as viewer:
        await sampler.moments.next("looked")
        assert viewer.part() is not None
        await looked(sampler, hands)
        assert viewer.part() is None


async def test_who_is_slow_gets_the_newest_and_holds_nobody(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with AsyncExitStackOf(sampler, page, 2) as (slow, quick):
        await sampler.moments.next("looked")
        for number in range(5):
            page.text = f"number {number}"
            await looked(sampler, hands)
            assert quick.part() == f"<p>number {number}</p>"
        assert slow.part() == "<p>number 4</p>"
        assert slow.part() is None
        assert len(slow.points()[1]) == 6


async def test_a_look_that_takes_long_is_taken_less_often(sampler: Sampler, hands: Hands) -> None:
    page = Page()

    async def slowly(before: Any) -> str:
        await hands.sleep(2)
        return await page.read(before)

    with sampler.watching(Subject("page", slowly), "key", page.render):
        await asyncio.sleep(0)
        await looked(sampler, hands, 2)
        await hands.turn(7)
        assert page.looks == 1
        await hands.turn(1)
        await looked(sampler, hands, 2)


async def test_a_look_is_told_the_last_one_for_rates(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render):
        await sampler.moments.next("looked")
        await looked(sampler, hands)
    assert page.befores == [None, "first"]
    assert sampler.latest("page") == "first"
    await hands.turn(121)
    assert sampler.latest("page") is None


async def test_beside_those_who_watch_a_program_gets_what_they_see(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render):
        await sampler.moments.next("looked")
        await hands.turn(0.9)
        assert sampler.fresh("page") == "first"
        page.error = TimeoutError()
        await looked(sampler, hands, 0.1)
        assert sampler.fresh("page") is None
    assert sampler.fresh("page") is None


async def test_what_a_program_saw_is_compared_with_unless_it_was_a_moment_ago(sampler: Sampler, hands: Hands) -> None:
    for pause, data in ((0, "first"), (0.5, "second"), (1, "third")):
        await hands.turn(pause)
        sampler.remember("page", data)
        assert sampler.latest("page") == ("third" if data == "third" else "first")


async def test_charts_go_back_a_quarter_of_an_hour_with_a_gap_where_nobody_looked(
    sampler: Sampler, hands: Hands
) -> None:
    page = Page()
    for pause in (0, 600, 400):
        await hands.turn(pause)
        with sampler.watching(page.subject, "key", page.render) as viewer:
            await sampler.moments.next("looked")
            first, points = viewer.points()
    assert first
    assert [(time - 1000, values["length"]) for time, values in points] == [
        (600, 5.0),
        (601, None),
        (1000, 5.0),
    ]
    assert HISTORY == 900


async def test_charts_go_on_after_the_clock_was_set_back(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render) as viewer:
        await sampler.moments.next("looked")
        assert len(viewer.points()[1]) == 1
        hands.back = 100
        await looked(sampler, hands)
        assert [(first, [time for time, _ in points]) for first, points in [viewer.points()]] == [(True, [901])]


async def test_what_was_seen_long_ago_is_not_shown_as_if_it_were_new(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render):
        await sampler.moments.next("looked")
    page.text = "second"
    with sampler.watching(page.subject, "key", page.render) as viewer:
        assert viewer.part() is None
        await sampler.moments.next("looked")
        assert viewer.part() == "<p>second</p>"


async def test_a_failed_look_is_told_once_and_the_page_comes_again(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    with sampler.watching(page.subject, "key", page.render) as viewer:
        await sampler.moments.next("looked")
        assert (viewer.problem(), viewer.part()) == (None, "<p>first</p>")
        page.error = TimeoutError()
        for told in ("DatabaseUnavailable", None):
            await looked(sampler, hands, 5)
            assert (getattr(viewer.problem(), "error", None), viewer.part()) == (told, None)
        page.error = None
        await looked(sampler, hands, 5)
        assert (viewer.problem(), viewer.part()) == (None, "<p>first</p>")


async def test_after_a_look_that_timed_out_the_next_one_comes_soon(sampler: Sampler, hands: Hands) -> None:
    began: list[float] = []

    async def hangs(_before: Any) -> str:
        began.append(hands.time() - 1_000)
        await hands.sleep(10)
        raise TimeoutError

    with sampler.watching(Subject("page", hangs), "key", str):
        for _ in range(180):
            await hands.turn(1)
    # And never less often than a look that takes so long: after four times as long.
    assert [round(then - before) for before, then in pairwise(began)] == [15, 20, 30, 50, 50]


async def test_a_problem_says_since_when(sampler: Sampler, hands: Hands) -> None:
    page = Page()
    page.error = ConnectionRefusedError()
    async with watch(stream_of(sampler, page, hands), "/live") as stream:
        await stream.until(lambda stream: "problem" in stream.came)
        await looked(sampler, hands)
        page.error = TimeoutError()
        await looked(sampler, hands)
        await stream.until(lambda stream: len(stream.came["problem"]) == 2)
    refused, late = map(json.loads, stream.came["problem"])
    assert refused["message"] == "the database cannot be reached; trying again"
    assert "in time" in late["message"]
    assert refused["since"] == late["since"] == "1970-01-01T00:16:40.000000Z"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [("search=a&status=paused", "status=paused&search=a", True),
     ("status=paused&status=unowned", "status=unowned&status=paused", False)],
)  # fmt: skip
def test_watching_the_same_is_asking_the_same_in_any_order(one: str, other: str, same: bool) -> None:
    keys = [resolve("subscriptions", parse_qsl(query)).key for query in (one, other)]
    assert (keys[0] == keys[1]) is same


async def test_there_are_not_too_many_viewers_or_pages(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.dashboard.sampler.MAX_VIEWERS", 2)
    page = Page()
    with AsyncExitStackOf(sampler, page, 2), pytest.raises(Refused, match="TooManyViewers"):
        sampler.watching(page.subject, "key", page.render).__enter__()
    with AsyncExitStackOf(sampler, page, 2):
        async with watch(stream_of(sampler, page, LoopClock()), "/live") as stream:
            await stream.until(lambda stream: not stream.open)
        # A browser that is refused by a status would not come again, but load the page again and again.
        assert (stream.status, stream.came["other"]) == (200, ["retry: 30000"])
        assert json.loads(stream.came["problem"][0])["error"] == "TooManyViewers"
    monkeypatch.setattr("eventstore.dashboard.sampler.MAX_WATCHED", 1)
    with sampler.watching(page.subject, "key", page.render), pytest.raises(Refused, match="TooManyViewers"):
        sampler.watching(Subject("other", page.read), "key", page.render).__enter__()


async def test_pages_nobody_watches_are_forgotten_in_the_end(sampler: Sampler, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.dashboard.sampler.REMEMBERED", 3)
    page = Page()
    for number in range(9):
        with sampler.watching(Subject(number, page.read), "key", page.render):
            await sampler.moments.next("looked")
    assert list(sampler._watched) == [6, 7, 8]


# -- the stream


def stream_of(sampler: Sampler, page: Page, clock: Clock) -> EventStream:
    watching = sampler.watching(page.subject, "key", page.render)
    return EventStream(watching, lambda part: part.replace("first", "mine"), clock, has_series=True)


def test_lines_of_any_kind_stay_inside_of_the_data() -> None:
    sent = event("part", "a\nb\r\nc\rd\n\nevent: x", 7)
    assert sent == "id: 7\nevent: part\ndata: a\ndata: b\ndata: c\ndata: d\ndata: \ndata: event: x\n\n"


async def test_a_stream_begins_with_the_page_and_the_chart(sampler: Sampler, hands: Hands) -> None:
    async with watch(stream_of(sampler, Page(), hands), "/live") as stream:
        assert await stream.parts() == ["<p>mine</p>"]
        await stream.until(Stream.series)
        assert stream.series() == [{"reset": True, "times": [1000.0], "values": {"length": [5.0]}}]
        assert stream.came["other"] == ["retry: 2000"]
        await looked(sampler, hands)
        await stream.until(lambda stream: len(stream.series()) == 2)
        assert stream.series()[1] == {"reset": False, "times": [1001.0], "values": {"length": [5.0]}}
        assert len(stream.came["part"]) == 1


async def test_a_quiet_stream_has_a_heartbeat(sampler: Sampler, hands: Hands) -> None:
    page = Page()

    async def never(_before: Any) -> str:
        await asyncio.Event().wait()
        return ""

    watching = sampler.watching(Subject("page", never), "key", page.render)
    async with watch(EventStream(watching, str, hands, has_series=False), "/live") as stream:
        for beats in (1, 2):
            for _ in range(3):
                await asyncio.sleep(0)
            await hands.turn(HEARTBEAT)
            await stream.until(lambda stream, beats=beats: stream.came["other"][1:] == [":"] * beats)  # type: ignore[misc]


async def test_a_stream_ends_after_an_hour_so_that_one_shows_who_one_is(sampler: Sampler, hands: Hands) -> None:
    async with watch(stream_of(sampler, Page(), hands), "/live") as stream:
        await stream.parts()
        await hands.turn(LASTS)
        await stream.until(lambda stream: not stream.open)


async def test_whoever_leaves_is_forgotten(sampler: Sampler, hands: Hands) -> None:
    async with watch(stream_of(sampler, Page(), hands), "/live") as stream:
        await stream.parts()
        assert sampler.viewers == 1
    assert sampler.viewers == 0


async def test_the_end_of_the_server_ends_streams(hands: Hands) -> None:
    ending: list[bool] = []
    sampler = Sampler(lambda: bool(ending), clock=hands, now=hands.time)
    async with watch(stream_of(sampler, Page(), hands), "/live") as stream:
        await stream.parts()
        ending.append(True)
        await hands.turn(0.5)
        await stream.until(lambda stream: not stream.open)
    await sampler.close()


# -- over a store


async def test_a_page_changes_when_an_event_is_appended(store: EventStore, app: Starlette) -> None:
    async with watch(app, "/live/events") as stream:
        await stream.parts()
        await store.append("order-1", [NewEvent("QuiteNew", {})])
        # Something else may have changed before, such as an age.
        await stream.until(lambda stream: "QuiteNew" in stream.came["part"][-1])
    assert "QuiteNew" not in stream.came["part"][0]
    assert stream.status == 200


async def test_every_live_part_carries_the_viewers_own_token(store: EventStore, app: Starlette) -> None:
    from tests.dashboard.conftest import browser, own_csrf

    await store.subscribe("billing", EventType("A"))
    for _ in range(2):
        async with browser(app) as client:
            await client.get("/subscriptions/billing")
            cookie = "; ".join(f"{one.name}={one.value}" for one in client.cookies.jar)
            async with watch(app, "/live/subscriptions/billing", cookie=cookie) as stream:
                (part,) = await stream.parts()
            assert own_csrf(app, client) in part
            assert app.state.site.csrf_mark not in part


async def test_a_page_that_is_gone_says_so_and_ends(store: EventStore, app: Starlette) -> None:
    await store.subscribe("billing", EventType("A"))
    async with watch(app, "/live/subscriptions/billing") as stream:
        await stream.parts()
        await store.unsubscribe("billing")
        await stream.until(lambda stream: not stream.open)
    assert json.loads(stream.came["gone"][0])["error"] == "SubscriptionNotFound"


async def test_closing_the_store_ends_streams(db: str) -> None:
    async with AsyncExitStack() as stack:
        async with EventStore(db) as store:
            stream = await stack.enter_async_context(watch(dashboard(store), "/live/"))
            await stream.parts()
        await stream.until(lambda stream: not stream.open)


async def test_a_look_takes_five_queries_at_most_whoever_watches(store: EventStore, app: Starlette) -> None:
    await store.append("order-1", [NewEvent("A", {}) for _ in range(3)])
    await store.subscribe("billing", EventType("A"), pool_size=2)
    queries = 0
    acquire = store.database.acquire

    def counted() -> Any:
        nonlocal queries
        queries += 1
        return acquire()

    store.database.acquire = counted  # type: ignore[method-assign]
    looked = app.state.site.sampler.moments
    # And not pubsub, which asks the nodes.
    for path, viewers in {"": 50, "subscriptions/billing": 50, "subscriptions": 2, "streams/order-1": 2, "events": 2,
                          "nodes": 2, "requests": 2, "actions": 2}.items():  # fmt: skip
        async with AsyncExitStack() as stack:
            streams = [await stack.enter_async_context(watch(app, f"/live/{path}")) for _ in range(viewers)]
            await asyncio.gather(*(stream.parts() for stream in streams))
            await looked.next("looked")
            before = queries
            await looked.next("looked")
            assert queries - before <= 5, path
            assert app.state.site.sampler.viewers == viewers
    assert app.state.site.sampler.viewers == 0
