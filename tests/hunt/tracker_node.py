"""One node with a tracker, told by lines: ``python -m tests.hunt.tracker_node DSN NAME DOWN_PERIOD``.

It says ``["ready", vsn]``; then each line "track KEY", "untrack KEY", "list" or "permdown" is answered by one
``[word, …]``. Between them its journal: ``["diff", seconds, joins, leaves]``, by a clock that all processes share.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

from eventstore.pubsub import Postgres, PubSub
from eventstore.tracker.owners import Owner
from eventstore.tracker.shard import TopicDiff
from eventstore.tracker.tracker import Tracker

PERIOD = 0.2


def say(*what: Any) -> None:
    print(json.dumps(what), flush=True)


class Journal:
    async def handle_diff(self, diff: TopicDiff, state: Any) -> Any:
        for joins, leaves in diff.values():
            say("diff", time.monotonic(), [key for key, _ in joins], [key for key, _ in leaves])
        return state


async def main(dsn: str, name: str, down_period: float) -> None:
    async with (
        PubSub("hunt", Postgres(dsn, node_name=name)) as pubsub,
        Tracker(
            Journal(), "t", pubsub, broadcast_period=PERIOD, max_silent_periods=2, down_period=down_period
        ) as tracker,
        Owner(name) as owner,
    ):
        vsn = tracker.replica("room").vsn
        say("ready", vsn)
        while words := (await asyncio.to_thread(sys.stdin.readline)).split():
            if words[0] == "track":
                await tracker.track(owner, "room", words[1], {})
            elif words[0] == "untrack":
                await tracker.untrack(owner, "room", words[1])
            elif words[0] == "permdown":
                await tracker.graceful_permdown()
            keys = [] if tracker.closed else [key for key, _ in tracker.list("room")]
            say(words[0], vsn if tracker.closed else tracker.replica("room").vsn, keys)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], float(sys.argv[3])))
