"""Server-sent events, written by hand: what a page shows, again whenever it changes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from datetime import UTC, datetime

from starlette.types import Receive, Scope, Send

from eventstore.dashboard.encoding import iso
from eventstore.dashboard.refusals import Refused
from eventstore.dashboard.sampler import Points, Viewer
from eventstore.service import Clock, Tasks

__all__ = ["EventStream", "event"]

HEARTBEAT = 15.0
"""Seconds after which a word is sent even if there is nothing to say, lest somebody in between hangs up."""

RETRY = 2000
"""Milliseconds after which a browser connects again."""

LASTS = 3600.0
"""Seconds after which a stream ends, so that the browser connects again and has to show who it is."""

HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-store"),
    (b"x-accel-buffering", b"no"),
]


def event(name: str, data: str, number: int) -> str:
    """Return an event as it is sent. A line's end of any kind begins a new line of data."""
    lines = data.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return f"id: {number}\nevent: {name}\n" + "".join(f"data: {line}\n" for line in lines) + "\n"


class EventStream:
    """An ASGI answer that lasts as long as somebody watches.

    Args:
        watching: entered when the stream begins and left when it ends, whoever ends it.
        finish: makes of a part, which is the same for all, the one of this viewer.
        has_series: the page has charts.
    """

    def __init__(
        self,
        watching: AbstractContextManager[Viewer],
        finish: Callable[[str], str],
        clock: Clock,
        *,
        has_series: bool,
    ) -> None:
        self._watching, self._finish, self._clock, self._has_series = watching, finish, clock, has_series
        self._number = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send events until the viewer leaves, or there will be none any more."""
        with ExitStack() as stack:
            try:
                viewer = stack.enter_context(self._watching)
            except Refused as problem:
                await self._refuse(problem, send)
                return
            leaving = Tasks()
            leaving.spawn("dashboard: viewer", _until_gone(receive, viewer))
            try:
                await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
                await self._send_all(viewer, send)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except OSError:
                pass  # gone, as some servers tell it
            finally:
                await leaving.stop()

    async def _refuse(self, problem: Refused, send: Send) -> None:
        """Say why there is nothing to watch. Refused by a status, a browser would not come again by itself."""
        await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
        text = f"retry: {1000 * (problem.retry or 30)}\n\n" + self._event("problem", _told(problem, None))
        await send({"type": "http.response.body", "body": text.encode(), "more_body": False})

    async def _send_all(self, viewer: Viewer, send: Send) -> None:
        until = self._clock.time() + LASTS
        await _send(send, f"retry: {RETRY}\n\n")
        while not viewer.ended and self._clock.time() < until:
            if not await self._clock.wait(viewer.woken, HEARTBEAT):
                await _send(send, ":\n\n")
            viewer.woken.clear()
            if text := "".join(self._news(viewer)):
                await _send(send, text)

    def _news(self, viewer: Viewer) -> Iterator[str]:
        if (problem := viewer.problem()) is not None:
            yield self._event("gone" if problem.status == 404 else "problem", _told(problem, viewer.failing_since))
            viewer.ended = viewer.ended or problem.status == 404
        if (part := viewer.part()) is not None:
            yield self._event("part", self._finish(part))
        first, points = viewer.points()
        if self._has_series and points:
            yield self._event("series", _series(first, points))

    def _event(self, name: str, data: str) -> str:
        self._number += 1
        return event(name, data, self._number)


async def _send(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(errors="replace"), "more_body": True})


async def _until_gone(receive: Receive, viewer: Viewer) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    viewer.ended = True
    viewer.woken.set()


def _told(problem: Refused, since: float | None) -> str:
    at = None if since is None else iso(datetime.fromtimestamp(since, UTC))
    return json.dumps({"error": problem.error, "message": problem.message, "since": at})


def _series(first: bool, points: Sequence[tuple[float, Points]]) -> str:
    names = list(dict.fromkeys(name for _, values in points for name in values))
    return json.dumps(
        {
            "reset": first,
            "times": [round(time, 3) for time, _ in points],
            "values": {name: [values.get(name) for _, values in points] for name in names},
        }
    )
