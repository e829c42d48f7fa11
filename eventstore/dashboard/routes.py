"""Which page a path means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from eventstore.dashboard.pages import PAGES, PageSpec
from eventstore.dashboard.parameters import Parameters
from eventstore.dashboard.refusals import InvalidParameter, Refused

__all__ = ["KINDS", "Target", "resolve"]

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

KINDS = {*_PLAIN, *_BY_QUERY, "live", "login", "logout", "metrics", "static"} - {""}
"""What paths begin with."""

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
        """The same for all who see the same page. Of a name that is given twice the order counts."""
        return self.spec.name, *sorted((*self.pairs, *self.about), key=lambda pair: pair[0])


def resolve(path: str, pairs: Sequence[tuple[str, str]]) -> Target:
    """Return the page that a path, without a slash before it, and a query mean.

    Raises:
        Refused: there is no such page, or it takes no parameter of that name: left out, it would show something else.
    """
    target = _resolved(path, pairs)
    takes = tuple(name for name in target.spec.takes if all(name != about for about, _ in target.about))
    for name, _ in target.pairs:
        if name not in takes:
            known = ", ".join((*takes, *HIDDEN))
            raise InvalidParameter(name[:40], f"is no parameter of this page, which takes {known}")
    return target


def _resolved(path: str, pairs: Sequence[tuple[str, str]]) -> Target:
    query = tuple((name, value) for name, value in pairs if name not in HIDDEN)
    kind, slash, rest = path.partition("/")
    if not slash and kind in _PLAIN:
        return Target(PAGES[_PLAIN[kind]], (kind,) if kind else (), query)
    if not slash and kind in _BY_QUERY:
        name = Parameters(query).needed("name")
        return _about(kind, _BY_QUERY[kind], name, tuple(pair for pair in query if pair[0] != "name"))
    if rest and kind in _NAMED:
        return _about(_NAMED[kind], kind, rest, query)
    if rest and kind == "events":
        return Target(PAGES["event"], (kind, rest), query, (("event", rest),))
    raise Refused(404, "NotFound", "there is no such page")


def _about(page: str, kind: str, name: str, query: tuple[tuple[str, str], ...]) -> Target:
    return Target(PAGES[page], (kind, name), query, (("name", name),))
