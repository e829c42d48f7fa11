"""Which page a path means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eventstore.dashboard.pages import PAGES, PageSpec
from eventstore.dashboard.parameters import Parameters
from eventstore.dashboard.refusals import Refused

__all__ = ["Target", "resolve"]

_PLAIN = {
    "": "overview",
    "subscriptions": "subscriptions",
    "streams": "streams",
    "events": "events",
    "nodes": "nodes",
    "pubsub": "pubsub",
    "requests": "requests",
    "actions": "actions",
    "rewind": "rewind",
}
_NAMED = {"subscriptions": "subscription", "streams": "stream"}
_BY_QUERY = {"subscription": "subscriptions", "stream": "streams"}

HIDDEN = ("format",)
"""Parameters about the answer's form, which links to the same page leave out."""


@dataclass(frozen=True, slots=True)
class Target:
    """A page and what it is asked for.

    Attributes:
        path: segments of its URL, the last one as long as it likes.
        pairs: its query, without what `path` says.
    """

    spec: PageSpec
    path: tuple[str, ...]
    pairs: tuple[tuple[str, str], ...]
    about: tuple[tuple[str, str], ...] = ()

    @property
    def parameters(self) -> Parameters:
        """Everything that the page is asked for."""
        return Parameters((*self.pairs, *self.about))

    @property
    def is_live(self) -> bool:
        """Whether it changes while one looks at it; pages further back do not."""
        return self.spec.live and all(name not in ("before", "parked_after") for name, _ in self.pairs)

    @property
    def key(self) -> tuple[object, ...]:
        """The same for all who see the same page."""
        return self.spec.name, *sorted((*self.pairs, *self.about))


def resolve(path: str, pairs: Sequence[tuple[str, str]]) -> Target:
    """Return the page that a path, without a slash before it, and a query mean (`Refused` if there is none)."""
    query = tuple((name, value) for name, value in pairs if name not in HIDDEN)
    kind, slash, rest = path.partition("/")
    if not slash and kind in _PLAIN:
        return Target(PAGES[_PLAIN[kind]], (kind,) if kind else (), query)
    if not slash and kind in _BY_QUERY:
        name = Parameters(query).needed("name")
        return _about(kind, _BY_QUERY[kind], name, query)
    if rest and kind in _NAMED:
        return _about(_NAMED[kind], kind, rest, query)
    if rest and kind == "events":
        return Target(PAGES["event"], (kind, rest), query, (("event", rest),))
    raise Refused(404, "NotFound", "there is no such page")


def _about(page: str, kind: str, name: str, query: tuple[tuple[str, str], ...]) -> Target:
    others = tuple(pair for pair in query if pair[0] != "name")
    return Target(PAGES[page], (kind, name), others, (("name", name),))
