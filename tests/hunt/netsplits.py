"""A network of its own for a process, which can fall silent: nothing gets through, and nobody is told."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["Network", "NoNetworks", "network"]

NOWHERE = "02:00:00:00:00:99"
"""A hardware address that nobody has: what is sent there is lost without a word."""


class NoNetworks(Exception):
    """This machine lets nobody make networks."""


class Network:
    """A namespace that is joined with this one by a cable.

    Attributes:
        here, there: the addresses of its two ends.
    """

    def __init__(self, name: str) -> None:
        self._name, self._cable = name, f"v{name[-8:]}"
        number = os.getpid() % 250
        self.here, self.there = f"10.231.{number}.1", f"10.231.{number}.2"

    def command(self, *words: str) -> list[str]:
        """What runs *words* on the other side."""
        return ["ip", "netns", "exec", self._name, *words]

    def make(self) -> None:
        ip("netns", "add", self._name)
        ip("link", "add", self._cable, "type", "veth", "peer", "name", "far", "netns", self._name)
        ip("address", "add", f"{self.here}/24", "dev", self._cable)
        ip("link", "set", self._cable, "up")
        ip("-n", self._name, "address", "add", f"{self.there}/24", "dev", "far")
        ip("-n", self._name, "link", "set", "far", "up")

    def remove(self) -> None:
        for words in (("netns", "delete", self._name), ("link", "delete", self._cable)):
            with suppress(NoNetworks):
                ip(*words)

    def part(self) -> None:
        """Lose everything that either side sends from now on."""
        self._lead(NOWHERE, NOWHERE)

    def heal(self) -> None:
        near, far = hardware("link", "show", self._cable), hardware("-n", self._name, "link", "show", "far")
        self._lead(far, near)

    def _lead(self, there: str, here: str) -> None:
        ip("neighbour", "replace", self.there, "lladdr", there, "nud", "permanent", "dev", self._cable)
        ip("-n", self._name, "neighbour", "replace", self.here, "lladdr", here, "nud", "permanent", "dev", "far")


def ip(*words: str) -> str:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NoNetworks(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def hardware(*words: str) -> str:
    found = ip(*words).split()
    return found[found.index("link/ether") + 1]


@contextmanager
def network() -> Iterator[Network]:
    """Make one.

    Raises:
        NoNetworks: it takes root, and iproute2.
    """
    if shutil.which("ip") is None:
        raise NoNetworks("there is no ip: apt-get install iproute2")
    made = Network(f"es-{os.getpid()}")
    try:
        made.make()
        yield made
    finally:
        made.remove()
