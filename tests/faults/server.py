"""The server of a campaign: durable, on disk, and killed as a machine would kill it."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp

import psutil

from tests.operating.clusters import Cluster, made_for_server, run, template

__all__ = ["Server", "server", "template"]

DURABLE = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "200",
    "max_prepared_transactions": "10",
    "max_notify_queue_pages": "64",
}
"""64 pages are as few as a queue of notifications may have; it is full after half a megabyte."""


class Server(Cluster):
    """One that can be killed as a whole."""

    def processes(self) -> list[psutil.Process]:
        """The postmaster first, then everything that it started."""
        if self._process is None or self._process.poll() is not None:
            return []
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self._process.pid)
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def kill(self) -> None:
        """End every process without a word; each backend has a process group of its own, so one by one."""
        if self._process is None:
            return
        with suppress(ProcessLookupError):
            os.kill(self._process.pid, signal.SIGSTOP)  # it starts nobody any more
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        psutil.wait_procs(processes)  # a server does not start while one of those before it has their shared memory


@contextmanager
def server(data: Path, **settings: str) -> Iterator[Server]:
    """Start a durable server on a copy of *data*, in a directory of its own; nothing of it is left."""
    root = made_for_server(Path(mkdtemp(prefix="faults-")))
    started = Server(root, **(DURABLE | settings))
    try:
        run("cp", "-a", data, started.data, cwd=root)
        started.start()
        yield started
    finally:
        started.kill()
        shutil.rmtree(root)
