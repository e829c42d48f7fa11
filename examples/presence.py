"""A chat room that shows who is in it, across any number of processes, with nothing but Postgres behind it.

    pip install '.[embedded,examples]' in a checkout
    uvicorn examples.presence:app --timeout-graceful-shutdown 1 --port 8001
    uvicorn examples.presence:app --timeout-graceful-shutdown 1 --port 8002      # in another terminal

Open http://localhost:8001 and http://localhost:8002. Each sees who is on the other; stop one with Ctrl-C, and its
people leave the other at once. EVENTSTORE_DSN names your database (`eventstore migrate` prepares it); without it the
embedded Postgres is used.
"""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from eventstore import EventStore
from eventstore.pubsub import PubSub
from eventstore.tracker import Owner, Tracker

PAGE = """<!doctype html>
<meta charset="utf-8"><title>Room</title><meta name="viewport" content="width=device-width">
<style>body{font:16px system-ui;max-width:40rem;margin:2rem auto;padding:0 1rem}li{margin:.2rem 0}</style>
<form id="join"><label>Your name <input id="name" required maxlength="40" autofocus></label>
<button>Enter</button></form>
<form id="say" hidden><label>Say <input id="text" required maxlength="500"></label> <button>Send</button></form>
<p>Here: <span id="here" aria-live="polite">–</span></p><ul id="messages"></ul>
<script>
const $ = id => document.getElementById(id), room = "/rooms/lobby"
$("join").onsubmit = event => {
  event.preventDefault(); $("join").hidden = true; $("say").hidden = false; $("text").focus()
  const events = new EventSource(`${room}/events?name=${encodeURIComponent($("name").value)}`)
  events.addEventListener("here", e => $("here").textContent = JSON.parse(e.data).join(", "))
  events.addEventListener("said", e => {
    const said = JSON.parse(e.data), line = document.createElement("li")
    line.textContent = `${said.name}: ${said.text}`; $("messages").append(line)
  })
}
$("say").onsubmit = event => {
  event.preventDefault()
  fetch(`${room}/messages`, {method: "POST", body: JSON.stringify({name: $("name").value, text: $("text").value})})
  $("text").value = ""
}
</script>"""


class Announcer:
    """Tells this process's subscribers of a room that who is there has changed."""

    def __init__(self, pubsub: PubSub) -> None:
        self._pubsub = pubsub

    async def handle_diff(self, diff: dict[str, Any], state: None) -> None:
        for room in diff:
            await self._pubsub.local_broadcast(f"here:{room}", "changed")


@asynccontextmanager
async def lifespan(app: Starlette) -> AsyncIterator[None]:
    async with (
        EventStore(os.environ.get("EVENTSTORE_DSN")) as store,
        Tracker(Announcer(store.pubsub), "rooms", store.pubsub, permdown_on_shutdown=True) as tracker,
    ):
        app.state.pubsub, app.state.tracker = store.pubsub, tracker
        yield


async def page(_: Request) -> Response:
    return HTMLResponse(PAGE)


async def events(request: Request) -> Response:
    """Be present in the room for as long as the connection lasts, and get what happens there."""
    room, name = request.path_params["room"], request.query_params.get("name", "somebody")[:40]
    return StreamingResponse(_events(request.app.state, room, name), media_type="text/event-stream")


async def _events(state: Any, room: str, name: str) -> AsyncIterator[str]:
    async with (
        state.pubsub.subscription(f"room:{room}", f"here:{room}") as messages,
        Owner(name) as owner,
    ):
        await state.tracker.track(owner, room, name, {})
        async for message in messages:
            if message == "changed":
                yield _event("here", sorted({who for who, _ in state.tracker.list(room)}))
            else:
                yield _event("said", message)


def _event(kind: str, data: Any) -> str:
    return f"event: {kind}\ndata: {json.dumps(data)}\n\n"


async def say(request: Request) -> Response:
    """Say something to everybody in the room, on every process."""
    said = await request.json()
    message = {"name": str(said["name"])[:40], "text": str(said["text"])[:500]}
    await request.app.state.pubsub.broadcast(f"room:{request.path_params['room']}", message)
    return JSONResponse(message, status_code=202)


app = Starlette(
    routes=[
        Route("/", page),
        Route("/rooms/{room}/events", events),
        Route("/rooms/{room}/messages", say, methods=["POST"]),
    ],
    lifespan=lifespan,
)
