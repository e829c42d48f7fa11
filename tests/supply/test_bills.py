"""The bill of materials lists what somebody gets who installs the wheel: the locked versions, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from tests.supply.bills import PYPROJECT, bill, extras
from tests.supply.locking import locked

LOCK = PYPROJECT.parent / "requirements" / "ci.txt"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bill of the wheel with one extra."""
    dist = tmp_path_factory.mktemp("dist")
    building = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(dist), PYPROJECT.parent]
    subprocess.run(building, check=True, stdout=subprocess.DEVNULL)
    bill(next(dist.glob("*.whl")), LOCK, ["metrics"], dist / "bill.json")
    content: dict[str, Any] = json.loads((dist / "bill.json").read_text())
    return content


def named(bill: dict[str, Any]) -> dict[str, str]:
    return {one["name"].lower().replace("_", "-"): one["version"] for one in bill["components"]}


def test_a_bill_lists_dependencies_of_the_project_and_theirs_in_locked_versions(made: dict[str, Any]) -> None:
    listed, pins = named(made), locked(LOCK.read_text())
    assert {"asyncpg", "sqlalchemy", "alembic", "pydantic", "orjson", "prometheus-client", "greenlet"} <= listed.keys()
    assert {name: pins[name] for name in listed} == listed


def test_a_bill_lists_neither_tools_nor_extras_that_were_not_chosen(made: dict[str, Any]) -> None:
    assert not {"pytest", "ruff", "pip", "click", "httpx", "eventstore-postgres"} & named(made).keys()


def test_a_bill_says_what_the_project_itself_depends_on(made: dict[str, Any]) -> None:
    assert made["metadata"]["component"]["name"] == "eventstore-postgres"
    (root,) = (one for one in made["dependencies"] if one["ref"] == made["metadata"]["component"]["bom-ref"])
    direct = {one.split("==")[0].lower().replace("_", "-") for one in root["dependsOn"]}
    assert direct == {"asyncpg", "sqlalchemy", "alembic", "pydantic", "orjson", "prometheus-client"}


def test_extras_for_users_are_all_but_those_for_working_on_the_project() -> None:
    assert "dashboard" in extras()
    assert not {"dev", "bench"} & set(extras())
