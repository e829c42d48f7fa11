"""What every template is given beside its data: `View`, called ``page`` there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from eventstore.dashboard.addresses import Addresses
from eventstore.dashboard.rendering import static_version

__all__ = ["Flash", "NavItem", "View"]

NAVIGATION = (
    ("overview", "Overview", ""),
    ("subscriptions", "Subscriptions", "subscriptions"),
    ("streams", "Streams", "streams"),
    ("events", "Events", "events"),
    ("nodes", "Nodes", "nodes"),
    ("pubsub", "PubSub", "pubsub"),
    ("requests", "Requests", "requests"),
    ("actions", "Actions", "actions"),
)

_WITHIN = {"subscription": "subscriptions", "rewind": "subscriptions", "stream": "streams", "event": "events"}


@dataclass(frozen=True, slots=True)
class NavItem:
    """A link of the navigation; *current*: the page shown is this one, or within it."""

    name: str
    title: str
    url: str
    current: bool


@dataclass(frozen=True, slots=True)
class Flash:
    """What became of the last action, told once."""

    kind: Literal["ok", "error", "info"]
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A page as its template sees it.

    Attributes:
        path: of this page below the root, as segments for `url`.
        pairs: its query.
        live_path: of its stream of events; None: it is not live.
    """

    name: str
    title: str
    addresses: Addresses
    now: datetime
    node: str
    schema: str
    version: str
    path: Sequence[str] = ()
    pairs: Sequence[tuple[str, str]] = ()
    is_live: bool = False
    csrf: str = ""
    allow_actions: bool = False
    who: str | None = None
    sign_out: bool = False
    flash: Flash | None = None

    def url(self, /, *segments: object, **query: object) -> str:
        """Return the URL of another page; see `Addresses.url`."""
        return self.addresses.url(*segments, **query)

    def with_query(self, /, **changes: object) -> str:
        """Return this page's URL with its query changed; None removes."""
        query: dict[str, object] = {}
        for name, value in self.pairs:
            earlier = query.get(name)
            query[name] = value if earlier is None else [*(earlier if isinstance(earlier, list) else [earlier]), value]
        return self.url(*self.path, **{**query, **changes})

    @property
    def here(self) -> str:
        """This page's URL."""
        return self.with_query()

    @property
    def json(self) -> str:
        """This page as JSON."""
        return self.with_query(format="json")

    @property
    def live(self) -> str | None:
        """URL of this page's stream of events."""
        if not self.is_live:
            return None
        here = self.here[len(self.addresses.root) :]
        return f"{self.addresses.root}/live{here}"

    @property
    def query(self) -> dict[str, str]:
        """The query, each name with its last value."""
        return dict(self.pairs)

    @property
    def nav(self) -> list[NavItem]:
        """The navigation."""
        current = _WITHIN.get(self.name, self.name)
        return [NavItem(name, title, self.url(path), name == current) for name, title, path in NAVIGATION]

    def static(self, path: str) -> str:
        """Return the URL of a static file, which changes with its content."""
        return self.url("static", path, v=static_version(path) or None)
