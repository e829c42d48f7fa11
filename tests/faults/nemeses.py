"""What goes wrong in a campaign. Each fault is started, lasts a while and is healed; a seed chooses."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, Protocol
from uuid import uuid4

import asyncpg

from eventstore import NewEvent, StreamAppend
from eventstore.log.append import Request
from tests.faults.clocks import CLOCKS
from tests.hunt.journal import Entry

if TYPE_CHECKING:
    from tests.faults.campaign import Campaign
    from tests.hunt.proxy import Link, Proxy

__all__ = ["NEMESES", "Nemesis"]

ROLES = ("", "pool", "control", "lent", "listener", "notifier", "pubsub")
"""Whose connections are hit; empty: all."""


class Nemesis(Protocol):
    """One fault.

    Attributes:
        lasts: the least and the most seconds between start and heal.
    """

    lasts: tuple[float, float]

    async def start(self, field: Campaign) -> str:
        """Begin; returns what is hit."""

    async def heal(self, field: Campaign) -> None:
        """End it."""


class KillServer:
    """Every process of Postgres ends without a word, and it is started again."""

    lasts = (0.0, 3.0)

    async def start(self, field: Campaign) -> str:
        await asyncio.to_thread(field.server.kill)
        return "all processes"

    async def heal(self, field: Campaign) -> None:
        await asyncio.to_thread(field.server.start)


class _Kill:
    """A process ends without a word, and another one takes its place."""

    lasts = (0.5, 6.0)
    kind: ClassVar[str]

    async def start(self, field: Campaign) -> str:
        self.hit = field.rng.choice(field.mortal(self.kind))
        await self.hit.kill()
        return self.hit.name

    async def heal(self, field: Campaign) -> None:
        await field.start(self.kind, field.rng.choice(self.clocks()))

    def clocks(self) -> list[str]:
        return [""]


class KillNode(_Kill):
    kind = "node"


class KillWriter(_Kill):
    kind = "writer"


class KillReader(_Kill):
    kind = "reader"


class MoveClock(_Kill):
    """A node is killed, and comes back with a wall clock that is an hour off, or runs backwards."""

    kind = "node"

    def clocks(self) -> list[str]:
        return [name for name in CLOCKS if name]


class FreezeNode:
    """A node is halted for longer than its lease runs, and goes on in the middle of whatever it did."""

    lasts: tuple[float, float] = (1.5, 3.0)  # leases

    async def start(self, field: Campaign) -> str:
        self.lasts = tuple(field.plan.lease_ttl * times for times in FreezeNode.lasts)  # type: ignore[assignment]
        self.hit = field.rng.choice(field.mortal("node"))
        self.hit.freeze()
        return self.hit.name

    async def heal(self, field: Campaign) -> None:
        self.hit.thaw()


# -- connections


class _Links:
    """Some connections of some kind of process, of one role or of all, fare badly."""

    lasts: tuple[float, float] = (0.5, 5.0)

    def __init__(self, kind: str = "", role: str = "") -> None:
        self.kind, self.role = kind, role

    async def start(self, field: Campaign) -> str:
        self.kind, role = self.kind or field.rng.choice(list(field.proxies)), self.role or field.rng.choice(ROLES)
        self.proxy: Proxy = field.proxies[self.kind]
        links = self.proxy.links(role) or self.proxy.links()
        self.links = [link for link in links if field.rng.random() < 0.7] or links[:1]
        for link in self.links:
            self.hit(link, field.rng)
        return f"{len(self.links)} of {self.kind}s, {role or 'any'}"

    def hit(self, link: Link, rng: random.Random) -> None:
        raise NotImplementedError

    async def heal(self, field: Campaign) -> None: ...


class Cut(_Links):
    """They are reset."""

    lasts = (0.0, 0.5)

    def hit(self, link: Link, rng: random.Random) -> None:
        link.cut()


class CutInside(_Links):
    """They are reset after some more bytes, in the middle of a message."""

    def hit(self, link: Link, rng: random.Random) -> None:
        link.left = rng.choice((1, 10, 100, 1_000, 10_000)) + rng.randrange(100)


class Slow(_Links):
    """They bring a thousand bytes a second."""

    def hit(self, link: Link, rng: random.Random) -> None:
        link.slow = True

    async def heal(self, field: Campaign) -> None:
        for link in self.links:
            link.slow = False


class Stall(_Links):
    """They are half-open: they take what is sent and bring nothing, until they are reset."""

    lasts = (2.0, 8.0)

    def hit(self, link: Link, rng: random.Random) -> None:
        link.stalled = True

    async def heal(self, field: Campaign) -> None:
        for link in self.links:
            link.cut()


class Delay(_Links):
    """What is sent arrives later than a lease lasts, also if whoever sent it has given it up."""

    lasts = FreezeNode.lasts

    async def start(self, field: Campaign) -> str:
        self.lasts = tuple(field.plan.lease_ttl * times for times in FreezeNode.lasts)  # type: ignore[assignment]
        self.later = asyncio.Event()
        return await super().start(field)

    def hit(self, link: Link, rng: random.Random) -> None:
        link.held = self.later

    async def heal(self, field: Campaign) -> None:
        self.later.set()


class Lose(Stall):
    """They are half-open for good: nobody is ever told."""

    async def heal(self, field: Campaign) -> None: ...


class Vanish(Stall):
    """Every connection of one kind of process is half-open, new ones as well."""

    async def start(self, field: Campaign) -> str:
        self.kind = self.kind or field.rng.choice(list(field.proxies))
        self.proxy = field.proxies[self.kind]
        self.links = self.proxy.links()
        for link in self.links:
            link.stalled = True
        self.proxy.stalling = True
        return f"all of {self.kind}s, new ones too"

    async def heal(self, field: Campaign) -> None:
        self.proxy.stalling = False
        self.links = self.proxy.links()
        await super().heal(field)


class Refuse(_Links):
    """No new connection gets through, and some of those there are end."""

    lasts = (0.5, 6.0)

    def hit(self, link: Link, rng: random.Random) -> None:
        self.proxy.away = True
        link.cut()

    async def heal(self, field: Campaign) -> None:
        self.proxy.come_back()


# -- inside the server


class EndBackends:
    """Backends of anybody are terminated."""

    lasts = (0.0, 0.5)

    async def start(self, field: Campaign) -> str:
        ended = await field.ask(
            "select count(pg_terminate_backend(pid)) from (select pid from pg_stat_activity"
            " where backend_type = 'client backend' and pid <> pg_backend_pid() order by random() limit $1) chosen",
            field.rng.randrange(1, 8),
        )
        return f"{ended} backends"

    async def heal(self, field: Campaign) -> None: ...


class _Append:
    """Something is appended and held back: the log ends there for every reader, as long as it lasts."""

    lasts = (1.0, 6.0)

    async def append(self, field: Campaign, connection: asyncpg.Connection) -> None:
        event = NewEvent("Held", field.rng.randrange(1000))
        self.entry = Entry("append", "nemesis", "invoke", str(event.id))
        field.note(self.entry)
        request = Request((StreamAppend(f"held-{field.rng.randrange(3)}", [event]),))
        arguments = request.arguments(signal=False)
        numbers = ", ".join(f"${n}" for n in range(1, len(arguments) + 1))
        await connection.fetch(f"select * from eventstore.append_events_v1({numbers})", *arguments)

    def became(self, field: Campaign, outcome: Any) -> None:
        field.note(Entry("append", "nemesis", outcome, self.entry.id))


class IdleTransaction(_Append):
    """A transaction has appended and does nothing more; then it commits or rolls back."""

    def __init__(self, commits: bool | None = None) -> None:
        self.commits = commits

    async def start(self, field: Campaign) -> str:
        self.connection = await field.connect()
        await self.connection.execute("begin")
        await self.append(field, self.connection)
        return "one append"

    async def heal(self, field: Campaign) -> None:
        connection, commits = self.connection, self.commits
        commits = field.rng.random() < 0.5 if commits is None else commits
        try:
            await connection.execute("commit" if commits else "rollback")
        except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
            # A backend that was gone before it was asked to commit has committed nothing, but who knows the order.
            self.became(field, "unknown" if commits else "fail")
        else:
            self.became(field, "ok" if commits else "fail")
        connection.terminate()


class PreparedTransaction(_Append):
    """A transaction has appended and is prepared: it holds its locks without anybody being connected."""

    async def start(self, field: Campaign) -> str:
        self.name = f"faults-{uuid4()}"
        connection = await field.connect()
        try:
            await connection.execute("begin")
            await self.append(field, connection)
            await connection.execute(f"prepare transaction '{self.name}'")
        finally:
            connection.terminate()
        return "one append"

    async def heal(self, field: Campaign) -> None:
        done = field.rng.choice(("commit", "rollback"))
        await field.until_asked(f"{done} prepared '{self.name}'", asyncpg.UndefinedObjectError)
        self.became(field, "ok" if done == "commit" else "fail")


class ForeignTransaction:
    """A transaction of another database writes and stays open: it has a transaction id, and an old snapshot."""

    lasts = (2.0, 8.0)

    async def start(self, field: Campaign) -> str:
        self.connection = await field.connect("other")
        await self.connection.execute("begin isolation level repeatable read")
        await self.connection.execute("insert into anything values (1)")
        return "in another database"

    async def heal(self, field: Campaign) -> None:
        self.connection.terminate()


class FillQueue:
    """A listener stays in a transaction, so that the queue of notifications fills up, to its end."""

    lasts = (1.0, 5.0)

    async def start(self, field: Campaign) -> str:
        self.connection = await field.connect()
        await self.connection.add_listener("flood", lambda *_: None)
        await self.connection.execute("begin")
        notified = 0
        with suppress(asyncpg.PostgresError):  # the queue is full, or the server gone
            while notified < 200:
                notified += 1
                await field.ask("select pg_notify('flood', repeat('x', 7900))")
        return f"full after {notified}"

    async def heal(self, field: Campaign) -> None:
        self.connection.terminate()


NEMESES: dict[str, Callable[[], Nemesis]] = {
    "kill-server": KillServer,
    "kill-node": KillNode,
    "kill-writer": KillWriter,
    "kill-reader": KillReader,
    "move-clock": MoveClock,
    "freeze-node": FreezeNode,
    "cut": Cut,
    "cut-inside": CutInside,
    "slow": Slow,
    "stall": Stall,
    "delay": Delay,
    "lose": Lose,
    "vanish": Vanish,
    "refuse": Refuse,
    "end-backends": EndBackends,
    "idle-transaction": IdleTransaction,
    "prepared-transaction": PreparedTransaction,
    "foreign-transaction": ForeignTransaction,
    "fill-queue": FillQueue,
}
