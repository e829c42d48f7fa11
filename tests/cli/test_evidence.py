"""`evidence`, `seal` and `verify`: from turning the chain on to naming what was tampered with."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from eventstore import NewEvent
from tests.cli.conftest import Run, failure, rows

Append = Callable[..., None]

TRIGGERS_OFF = "alter table eventstore.events disable trigger user;"

SCRIPT = """
import sys
from eventstore.cli import main
try:
    main(["verify", "--help"])
except SystemExit:
    print("cryptography" in sys.modules)
"""

WRONG = [("verify", "--stream", "s", "--since-seal"), ("verify", "--seals", __file__), ("seal",), ("evidence", "key")]


@pytest.fixture
def key(tmp_path: Path, plain: Run) -> Path:
    made = rows(plain("evidence", "key", str(tmp_path / "key"), "--json"))
    assert made[0]["public"] == str(tmp_path / "key.pub")
    return tmp_path / "key"


def test_the_chain_is_turned_on_and_off(cli: Run, append: Append) -> None:
    assert "never was on" in cli("evidence").stdout
    append("s", NewEvent("A"))
    assert "the chain is on since position 1; no seals" in cli("evidence", "on").stdout
    assert rows(cli("evidence", "off", "--json"))[0]["state"] == "off"
    assert rows(cli("evidence", "status", "--json"))[0]["periods"] == [[1, 1]]
    assert [row["action"] for row in rows(cli("actions", "--json"))] == ["evidence off", "evidence on"]


def test_an_intact_log_is_sealed_and_verified(cli: Run, append: Append, key: Path, tmp_path: Path) -> None:
    cli("evidence", "on")
    append("s", NewEvent("A"), NewEvent("B"))
    out = tmp_path / "seals"
    sealing = ("seal", "--key", str(key), "--out", str(out))
    assert cli(*sealing).stdout == "seal 1 covers 2 events after position 0, up to 2\n"
    assert rows(cli(*sealing, "--json")) == [{"sealed": False}]
    append("s", NewEvent("C"))
    assert rows(cli(*sealing, "--json"))[0]["number"] == 2
    assert [json.loads(line)["number"] for line in out.read_text().splitlines()] == [1, 2]
    assert cli("evidence", "seals").stdout == out.read_text()
    assert "seal 2 covers the log up to position 3" in cli("evidence").stdout
    verified = cli("verify", "--seals", str(out), "--public-key", f"{key}.pub")
    assert verified.exit_code == 0
    assert verified.stdout == (
        "intact: 3 events up to position 3: 3 with a hash; 2 seals up to position 3, signatures checked\n"
    )


def test_what_is_broken_is_named_with_exit_code_1(
    cli: Run, append: Append, execute: Callable[[str], None], key: Path, tmp_path: Path
) -> None:
    cli("evidence", "on")
    append("s", NewEvent("A"), NewEvent("B"))
    cli("seal", "--key", str(key), "--out", str(tmp_path / "seals"))
    append("t", NewEvent("C"))
    execute(
        "alter table eventstore.events disable trigger user; update eventstore.events set type = 'D' where position = 2"
    )
    broken = cli("verify", "--seals", str(tmp_path / "seals"), "--public-key", f"{key}.pub")
    assert broken.exit_code == 1
    assert broken.stdout.splitlines()[0].startswith("2\ts\t2\tits hash is not that of the event")
    assert "BROKEN in 2 places, first at position 2 (stream s, version 2)" in broken.stdout
    row = json.loads(cli("verify", "--json").stdout)
    assert (row["intact"], row["found"], row["breaks"][0]["position"]) == (False, 2, 2)
    alone = cli("verify", "--stream", "s")
    assert (alone.exit_code, "BROKEN in one place at position 2 (stream s, version 2)" in alone.stdout) == (1, True)
    assert cli("verify", "--stream", "t").exit_code == 0
    assert cli("verify", "--since-seal").exit_code == 0


def test_nothing_is_sealed_without_a_chain_or_over_what_is_broken(
    cli: Run, append: Append, execute: Callable[[str], None], key: Path
) -> None:
    append("s", NewEvent("A"))
    assert failure(cli("seal", "--key", str(key), "--json")) == (2, "ConfigurationError")
    cli("evidence", "on")
    append("s", NewEvent("A"))
    execute(TRIGGERS_OFF + "update eventstore.events set type = 'D'")
    assert failure(cli("seal", "--key", str(key), "--json")) == (1, "NotIntact")


@pytest.mark.parametrize("args", WRONG)
def test_wrong_usage_is_told(plain: Run, args: tuple[str, ...]) -> None:
    assert plain(*args).exit_code == 2


def test_what_is_missing_is_told(cli: Run, key: Path) -> None:
    assert failure(cli("verify", "--stream", "none", "--json")) == (6, "StreamNotFound")
    assert failure(cli("verify", "--since-seal", "--json")) == (2, "ConfigurationError")
    assert failure(cli("seal", "--key", f"{key}.pub", "--json")) == (2, "ConfigurationError")


def test_help_does_not_import_cryptography() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_without_the_extra_its_name_is_told(plain: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives", None)
    result = plain("evidence", "key", str(tmp_path / "key"), "--json")
    assert result.exit_code == 2
    assert ".[evidence]" in json.loads(result.stderr)["message"]


def test_doctor_tells_whether_a_log_with_a_chain_was_sealed(
    cli: Run, append: Append, execute: Callable[[str], None], key: Path
) -> None:
    def doctor() -> tuple[str, str]:
        (row,) = rows(cli("doctor", "--only", "evidence", "--json"))
        return row["status"], row["found"]

    assert doctor() == ("ok", "events are not chained by hashes")
    cli("evidence", "on")
    append("s", NewEvent("A"))
    assert doctor()[0] == "warn"
    cli("seal", "--key", str(key))
    assert doctor()[0] == "ok"
    execute(
        "alter table eventstore.seals disable trigger user;"
        "update eventstore.seals set stored_at = stored_at - interval '9 days'"
    )
    assert doctor() == ("warn", "chained since position 0; sealed 9 days ago")
