"""A known vulnerability fails the audit; a service that does not answer is said to have audited nothing."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.supply.audit import Unreadable, Verdict, judged, main, reported

AFFECTED = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "ranges": [
    {"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "9.9.9"}]}
]}  # fmt: skip
KNOWN = {"vulns": [{"id": "PLANTED-1", "summary": "as it is meant to", "affected": [AFFECTED]}]}


@contextmanager
def service(answer: Callable[[str], Any]) -> Iterator[str]:
    """A service of vulnerabilities that says what *answer* does of a package's name; None: it is out of order."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            said = answer(asked["package"]["name"])
            self.send_response(503 if said is None else 200)
            self.end_headers()
            self.wfile.write(json.dumps(said or {}).encode())

        def log_message(self, *_: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def lock(tmp_path: Path) -> str:
    path = tmp_path / "lock.txt"
    path.write_text("".join(f"{one} --hash=sha256:{'0' * 64}\n" for one in ("jinja2==3.0.0", "click==8.0.0")))
    return str(path)


def test_a_known_vulnerability_fails_the_audit(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    with service(lambda name: KNOWN if name == "jinja2" else {}) as url:
        assert main(lock, "--osv-url", url) == 1
    assert capsys.readouterr().out.splitlines() == [
        "vulnerable: jinja2 3.0.0: PLANTED-1, fixed by 9.9.9", "1 packages have no known vulnerability"
    ]  # fmt: skip


def test_packages_without_a_known_vulnerability_pass_even_a_strict_audit(
    lock: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with service(lambda _: {}) as url:
        assert main(lock, "--strict", "--osv-url", url) == 0
    assert capsys.readouterr().out == "2 packages have no known vulnerability\n"


@pytest.mark.parametrize(("options", "code"), [((), 0), (("--strict",), 1)])
def test_a_service_that_cannot_be_reached_has_audited_nothing(
    lock: str, options: tuple[str, ...], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # nobody listens there, and nobody else will
        assert main(lock, *options, "--osv-url", f"http://127.0.0.1:{taken.getsockname()[1]}/v1/query") == code
    said = capsys.readouterr().out
    assert said.startswith("warning: nothing was audited")
    assert "refused" in said


def test_a_service_that_is_out_of_order_has_audited_nothing(lock: str, capsys: pytest.CaptureFixture[str]) -> None:
    with service(lambda _: None) as url:
        assert main(lock, "--osv-url", url) == 0
    assert capsys.readouterr().out.startswith("warning: nothing was audited")


def test_a_lock_that_cannot_be_read_fails_the_audit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "lock.txt"
    path.write_text("jinja2>=3\n")
    assert main(str(path)) == 1
    assert "does not contain a hash" in capsys.readouterr().err


def test_a_lock_without_packages_fails_the_audit() -> None:
    with pytest.raises(Unreadable):
        judged('{"dependencies": [], "fixes": []}', "")


def test_packages_that_a_service_does_not_know_are_not_counted_as_sound() -> None:
    packages = [{"name": "a", "skip_reason": "not found: a"}, {"name": "b", "version": "1", "vulns": []}]
    verdict = judged(json.dumps({"dependencies": packages}), "")
    assert verdict == Verdict(1, [], ["not found: a"])
    assert reported(verdict, strict=False)[1] == 0
    assert reported(verdict, strict=True)[1] == 1
