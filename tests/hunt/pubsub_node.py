"""One node of a PubSub, told by lines: ``python -m tests.hunt.pubsub_node DSN NAME COUNT``.

It says "ready" once it hears the others, broadcasts COUNT numbered messages to all and as many locally when it reads a
line, and prints what it received, one [sender, kind, number] a line, when it reads the next one.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import Any

import asyncpg

from eventstore.pubsub import Mailbox, Postgres, PubSub


async def line() -> str:
    return await asyncio.to_thread(sys.stdin.readline)


async def main(dsn: str, name: str, count: int) -> None:
    async with PubSub("hunt", Postgres(dsn, node_name=name)) as pubsub:
        received: Mailbox[Any] = Mailbox(1_000_000)
        pubsub.subscribe("numbers", received)
        print("ready", flush=True)
        await line()
        for number in range(count):
            await pubsub.broadcast("numbers", [name, "cluster", number])
            await pubsub.local_broadcast("numbers", [name, "local", number])
        print("sent", flush=True)
        await line()
        # What the others sent was committed before they said so: it arrives before this, which comes the same way.
        connection = await asyncpg.connect(dsn)
        async with connection.transaction():
            await pubsub.broadcast("numbers", [name, "end", 0], connection=connection)
        async for message in received:
            if message[:2] == [name, "end"]:
                break
            if message[1] != "end":
                print(json.dumps(message))
        print("done", flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
