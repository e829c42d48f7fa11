"""Accounts whose balances are a projection, and whose owners get a letter: handlers in any number of processes.

    pip install '.[embedded,cli]' in a checkout
    eventstore work --app examples.subscriptions:store      # as many as you like; Ctrl-C or SIGTERM ends one
    python -m examples.subscriptions ada 10                 # in another terminal: deposits, and shows the balance

EVENTSTORE_DSN names your database (`eventstore migrate` prepares it); without it the embedded Postgres is used. Stop
every worker, deposit, start one again: it goes on where they stopped.
"""

from __future__ import annotations

import asyncio
import os
import sys

import asyncpg

from eventstore import Delivery, Event, EventStore, EventType, FailurePolicy, NewEvent

DEPOSITED = EventType("Deposited")
PATIENT = FailurePolicy(attempts=10, delay=1.0, delay_max=3600.0, timeout=30.0)

TABLE = "create table if not exists balances (account text primary key, total bigint not null)"
ADD = """insert into balances values ($1, $2)
         on conflict (account) do update set total = balances.total + excluded.total"""

store = EventStore(os.environ.get("EVENTSTORE_DSN"))


@store.projection("balances", DEPOSITED)
async def add_up(events: list[Event], tx: asyncpg.Connection) -> None:
    """The rows and the place in the log are one transaction: every deposit counts exactly once."""
    await tx.execute(TABLE)
    await tx.executemany(ADD, [(event.stream, event.data["amount"]) for event in events])


@store.handler("letters", DEPOSITED, pool_size=4, after="current", policy=PATIENT)
async def write_letter(event: Event, delivery: Delivery) -> None:
    """Four at a time, in order for each account; one that fails is tried for hours before it is parked."""
    print(f"letter to {event.stream}: {event.data['amount']} arrived", flush=True)


async def deposit(account: str, amount: int) -> None:
    async with store:
        await store.subscribe("balances", DEPOSITED)  # as the workers do: whoever is first stores it
        done = await store.append(account, [NewEvent("Deposited", {"amount": amount})])
        try:
            await store.subscriptions.wait_for("balances", done.position, timeout=10)
        except TimeoutError as error:
            raise SystemExit(f"deposited, but nobody adds up: {error}") from None
        async for event in store.read(account, backwards=True, limit=1):
            print(f"{account}: deposit number {event.version} is in the balance")


if __name__ == "__main__":
    asyncio.run(deposit(sys.argv[1], int(sys.argv[2])))
