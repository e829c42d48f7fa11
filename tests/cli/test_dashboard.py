from __future__ import annotations

import json
import signal
import socket
import sys
from pathlib import Path

import httpx
import pytest

from tests.cli.conftest import Run, Spawn, interrupted, line_with

SECRET = "a-secret-that-is-long-enough"


def test_it_tells_its_address_and_ends_while_somebody_watches(spawn: Spawn) -> None:
    process = spawn("dashboard", "--port", "0", "--json", "--allow-actions")
    started = json.loads(process.stdout.readline())  # type: ignore[union-attr]
    assert (started["actions"], started["tokens"]) == (True, [])
    with httpx.Client(timeout=120) as client, client.stream("GET", f"{started['url']}live/") as stream:
        lines = stream.iter_lines()  # kept: once it is gone, httpx hangs up
        while next(lines) != "event: part":
            pass
        assert interrupted(process, signal.SIGTERM) == (0, "")


def test_ctrl_c_ends_it(spawn: Spawn) -> None:
    process = spawn("dashboard", "--port", "0", env={"EVENTSTORE_DASHBOARD_TOKEN": SECRET})
    url = line_with(process.stdout, "http://127.0.0.1").strip()
    assert httpx.get(url, timeout=120).status_code == 401
    assert httpx.get(url, headers={"authorization": f"Bearer {SECRET}"}, timeout=120).status_code == 200
    assert interrupted(process)[0] == 130


@pytest.mark.parametrize(
    ("args", "told"),
    [
        (("--host", "0.0.0.0"), "--token-file"),
        (("--host", "0.0.0.0", "--token-file", "TOKENS"), "--tls-cert"),
        (("--token-file", "missing"), "cannot read"),
        (("--token-file", "BAD"), "line 1"),
        (("--tls-cert", "missing"), "go together"),
        (("--tls-cert", "missing", "--tls-key", "missing"), "cannot use the certificate"),
        (("--root-path", "events"), "slash"),
        (("--port", "65536"), "65535"),
    ],
)
def test_what_would_not_be_safe_or_cannot_be_is_refused(
    plain: Run, tmp_path: Path, args: tuple[str, ...], told: str
) -> None:
    (tmp_path / "TOKENS").write_text(f"ada {SECRET}\n")
    (tmp_path / "BAD").write_text("ada short\n")
    files = {name: str(tmp_path / name) for name in ("TOKENS", "BAD", "missing")}
    result = plain("dashboard", *(files.get(one, one) for one in args))
    assert result.exit_code == 2
    assert told in result.stderr
    assert "short" not in result.stderr


@pytest.mark.parametrize(("mode", "told"), [(0o600, ""), (0o640, "its group can read"), (0o604, "others can read")])
def test_a_token_file_that_others_can_read_is_warned_of(plain: Run, tmp_path: Path, mode: int, told: str) -> None:
    file = tmp_path / "TOKENS"
    file.write_text(f"ada {SECRET}\n")
    file.chmod(mode)
    result = plain("dashboard", "--host", "0.0.0.0", "--token-file", str(file))
    assert ("chmod 600" in result.stderr, told in result.stderr) == (bool(told), True)


def test_a_port_that_is_taken_is_told(plain: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = plain("dashboard", "--port", str(taken.getsockname()[1]))
    assert (result.exit_code, "--port 0" in result.stderr) == (2, True)


def test_without_its_packages_it_says_how_to_get_them(plain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eventstore.cli.dashboard.PACKAGES", ("no_such_package",))
    result = plain("dashboard")
    assert (result.exit_code, ".[dashboard]" in result.stderr) == (2, True)


def test_other_commands_do_not_load_the_web_server() -> None:
    import subprocess

    code = (
        "import sys, eventstore.cli.nodes, eventstore.cli.dashboard; print({'starlette', 'uvicorn'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "set()\n"
