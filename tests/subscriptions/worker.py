"""A worker process for tests: notes every event it handles in a journal. ``python worker.py DSN JOURNAL NAME [MOST]``.

After so many as MOST it stands still.
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from eventstore import Delivery, Event, EventStore, Settings
from tests.hunt.journal import Entry, Journal

SETTINGS = Settings(claim_interval=0.1, settle_interval=0.02)


async def main(dsn: str, path: str, name: str, most: str = "1000000") -> None:
    journal, left = Journal(Path(path)), int(most)
    async with EventStore(dsn, settings=SETTINGS, node_name=name) as store:

        @store.handler("s")
        async def handle(event: Event, delivery: Delivery) -> None:
            nonlocal left
            if not left:
                await asyncio.Event().wait()
            left -= 1
            await asyncio.sleep(0.001)
            process = f"{name}/{delivery.partition}/{delivery.epoch}"
            place = (event.position, event.stream or "", event.version or 0)
            journal.note(Entry("read", process, "ok", str(event.id), *place))

        await store.run()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
