"""URLs of pages: below the path that the dashboard is mounted at, whatever a stream or a subscription is called."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

__all__ = ["Addresses", "local_path", "root_of"]

_SINGULAR = {"subscriptions": "subscription", "streams": "stream"}


class Addresses:
    """URLs below *root*, which is empty or begins with a slash and does not end with one."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    def url(self, /, *segments: object, **query: object) -> str:
        """Return the URL of a page; what is None in the query is left out.

        ``url("streams", name)`` works for every name: one that browsers would take for a relative path, or that a
        proxy might change on the way, goes into the query.
        """
        kind, rest = str(segments[0]) if segments else "", [str(one) for one in segments[1:]]
        if kind in _SINGULAR and rest and not _keeps("/".join(rest)):
            return self._joined(_SINGULAR[kind], {"name": "/".join(rest), **query})
        return self._joined("/".join(quote(one, safe="/") for one in (kind, *rest) if one), query)

    def _joined(self, path: str, query: dict[str, object]) -> str:
        pairs = [(name, value) for name, value in query.items() if value is not None and value != ""]
        return f"{self.root}/{path}" + (f"?{urlencode(pairs, doseq=True, quote_via=quote)}" if pairs else "")


def root_of(scope: Mapping[str, Any]) -> str:
    """Return the path that the dashboard is mounted at as it stands in URLs: part of it may be somebody's input.

    Servers and routers hand it over decoded. One that begins with two slashes would name another host.
    """
    root = quote(str(scope.get("root_path", "")), safe="/%", errors="replace").rstrip("/")
    return re.sub("^/+", "/", root)


def _keeps(name: str) -> bool:
    """Whether a name arrives as it was sent when it is part of a path. No router takes a line's end in one."""
    return "\\" not in name and "\n" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def local_path(text: str, root: str) -> str | None:
    """Return *text* if it is a path below *root* on this very host, so that nobody is sent elsewhere; None if not."""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return None
    parts = urlsplit(text)
    inside = parts.path == root or parts.path.startswith(root + "/")
    return text if inside and not parts.scheme and not parts.netloc else None
