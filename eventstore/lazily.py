"""Packages whose public names are loaded when they are first used, so that importing one costs nothing."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

__all__ = ["lazy"]


def lazy(
    package: dict[str, Any], homes: dict[str, tuple[str, ...]]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Return ``__getattr__`` and ``__dir__`` of a package.

    Args:
        package: its globals, with ``__all__``.
        homes: its names by the module each is loaded from; those that are not there are errors.
    """
    home_of = dict.fromkeys(package["__all__"], "eventstore.errors")
    home_of |= {name: module for module, names in homes.items() for name in names}

    def load(name: str) -> Any:
        if name not in home_of:
            raise AttributeError(f"module {package['__name__']!r} has no attribute {name!r}")
        value = package[name] = getattr(import_module(home_of[name]), name)
        return value

    return load, lambda: sorted(home_of)
