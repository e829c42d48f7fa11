"""URLs of pages: below the path that the dashboard is mounted at, whatever a stream or a subscription is called."""

from __future__ import annotations

from urllib.parse import quote, urlencode, urlsplit

__all__ = ["Addresses", "local_path"]

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


def _keeps(name: str) -> bool:
    """Whether a name arrives as it was sent when it is part of a path."""
    return "\\" not in name and all(part not in ("", ".", "..") for part in name.split("/"))


def local_path(text: str, root: str) -> str | None:
    """Return *text* if it is a path below *root* on this very host, so that nobody is sent elsewhere; None if not."""
    if not text.startswith("/") or text.startswith("//") or "\\" in text or not text.isprintable():
        return None
    parts = urlsplit(text)
    inside = parts.path == root or parts.path.startswith(root + "/")
    return text if inside and not parts.scheme and not parts.netloc else None
