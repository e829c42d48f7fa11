"""What the lock has to hold: everything that ``pyproject.toml`` asks for where the project is built and tested."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

__all__ = ["locked", "unlocked", "wanted"]

PIN = re.compile(
    r"^(?P<name>[a-z0-9-]+)==(?P<version>[^ ]+)(?: ; [^\\]*)? \\(?P<hashes>(?:\n {4}--hash=sha256:.*)+)$", re.M
)


def locked(lock: str) -> dict[str, str]:
    """Version of each package that is pinned with at least one hash, by name."""
    return {pin["name"]: pin["version"] for pin in PIN.finditer(lock)}


def wanted(pyproject: dict[str, Any]) -> Iterator[Requirement]:
    """What the project, its tools, and its build need directly; extras of its own are followed."""
    project = pyproject["project"]
    todo = [*pyproject["build-system"]["requires"], *project["dependencies"], f"{project['name']}[dev]"]
    while todo:
        one = Requirement(todo.pop())
        if one.name == project["name"]:
            todo += [each for extra in one.extras for each in project["optional-dependencies"][extra]]
        else:
            yield one


def unlocked(pyproject: dict[str, Any], lock: str) -> list[str]:
    """What is asked for, and is not in the lock in a version that will do."""
    pins = locked(lock)

    def will_do(one: Requirement) -> bool:
        pinned = pins.get(canonicalize_name(one.name))
        return pinned is not None and one.specifier.contains(pinned, prereleases=True)

    return sorted(str(one) for one in wanted(pyproject) if not will_do(one))
