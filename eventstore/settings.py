"""One frozen settings object, handed down; nothing below the command line reads the environment."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from eventstore.errors import ConfigurationError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What can be tuned. Periods are seconds, sizes are counts.

    Attributes:
        connections: most connections of the pool that appends, reads and settlements share.
        connect_timeout: how long opening a connection may take.
        statement_cache_size: prepared statements kept per connection; None: 100, and 0 behind a pooler. A number counts
            whatever there is, as for a pooler in session mode, or one that keeps them.
        listen_dsn: a direct DSN for LISTEN where the main one goes through a pooler; None: the main DSN.
            It is not shown by ``repr``.
        listen: False polls only. So does a node behind a pooler in transaction mode without *listen_dsn*, and says so.
        append_timeout: how long an append whose connection was lost is tried again before its outcome is unknown.
        poll_interval: how often the log is looked at even if no signal comes; ±20 % of jitter.
        heartbeat_interval: how often a node checks that it hears its own signal.
        page_size: events read by one query.
        scan_window: positions one query of a selective read looks at.
        mailbox_size: events that wait for one live consumer before it returns to reading pages.
        lease_ttl: after this long without renewal a node's partitions go to others.
        settle_interval: how long a settled event may wait for its checkpoint to be written.
        claim_interval: how often changes of subscriptions are looked for where no signal tells of them.
        window: events of one partition that may be handled and not yet settled: what a crash delivers again, at most.
        health_check_interval: how often a node makes sure that what should run does, and nothing else.
        hibernate_after: after this long without an event an emitter is suspended, and costs no task.
        drain_grace: how long handlers may finish when a node stops or gives a partition back.
        address_key: a secret that request analytics hashes client addresses with, the same on every node; None: one
            that the database makes once. It is not shown by ``repr``.

    Raises:
        ConfigurationError: a value is out of range.
    """

    connections: int = 10
    connect_timeout: float = 10.0
    statement_cache_size: int | None = None
    listen_dsn: str | None = field(default=None, repr=False)
    listen: bool = True
    append_timeout: float = 10.0
    poll_interval: float = 1.0
    heartbeat_interval: float = 10.0
    page_size: int = 500
    scan_window: int = 10_000
    mailbox_size: int = 10_000
    lease_ttl: float = 10.0
    settle_interval: float = 0.1
    claim_interval: float = 1.0
    window: int = 1_000
    health_check_interval: float = 60.0
    hibernate_after: float = 30.0
    drain_grace: float = 30.0
    address_key: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for item in fields(self):
            value = getattr(self, item.name)
            if type(item.default) is int and (type(value) is not int or value < 1):
                raise ConfigurationError(f"{item.name} must be a whole number of at least 1, not {value!r}")
            if type(item.default) is float and not (isinstance(value, (int, float)) and 0 < value < 1e6):
                raise ConfigurationError(f"{item.name} must be a number of seconds above 0, not {value!r}")
        cache = self.statement_cache_size
        if cache is not None and (type(cache) is not int or cache < 0):
            raise ConfigurationError(f"statement_cache_size must be None or a whole number from 0 on, not {cache!r}")
        if self.address_key is not None and (not isinstance(self.address_key, str) or not self.address_key):
            raise ConfigurationError("address_key is a text that is not empty, or None")
