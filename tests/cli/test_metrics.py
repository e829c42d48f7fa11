"""``eventstore work --metrics``."""

from __future__ import annotations

import signal
import socket
from urllib.request import urlopen

from tests.cli.conftest import Run, Spawn, interrupted, line_with


def test_work_answers_prometheus_on_loopback(spawn: Spawn) -> None:
    process = spawn("work", "--metrics", "0")
    url = line_with(process.stderr, "metrics: ").split()[1]
    assert url.startswith("http://127.0.0.1:")
    line_with(process.stderr, "node ")
    with urlopen(url, timeout=30) as answer:
        assert b'eventstore_up{schema="eventstore"} 1.0' in answer.read()
    assert interrupted(process, signal.SIGTERM)[0] == 0


def test_a_port_that_is_taken_ends_it_at_once(cli: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = cli("work", "--metrics", str(taken.getsockname()[1]))
    assert result.exit_code == 2, result.stderr
    assert "cannot be served on 127.0.0.1" in result.stderr


def test_a_host_without_a_port_is_refused(cli: Run) -> None:
    result = cli("work", "--metrics-host", "0.0.0.0")
    assert result.exit_code == 2, result.stderr
    assert "--metrics PORT" in result.stderr
