"""``python -m tests.supply.bills DIST LOCK``: bills of materials of the wheel in DIST, in the CycloneDX format.

One of the wheel alone and one with all its extras, as they are installed: into an empty environment, in the versions
that the lock names. The tool that writes them holds them against the schema of the format.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

__all__ = ["bill", "extras", "main"]

PYPROJECT = Path(__file__).parent.parent.parent / "pyproject.toml"
DEVELOPING = {"bench", "dev", "examples"}
"""Extras for who works on the project; all others are for users."""


def extras() -> list[str]:
    """Extras that users install."""
    declared = tomllib.loads(PYPROJECT.read_text())["project"]["optional-dependencies"]
    return sorted(declared.keys() - DEVELOPING)


def bill(wheel: Path, lock: Path, chosen: list[str], into: Path) -> None:
    """Write the bill of a wheel with some extras (`subprocess.CalledProcessError`)."""
    with tempfile.TemporaryDirectory() as environment:
        _run("uv", "venv", "--quiet", "--clear", "--python", sys.executable, environment)
        what = f"{wheel}[{','.join(chosen)}]"
        _run("uv", "pip", "install", "--quiet", "--python", environment, "--constraint", str(lock), what)
        _run(
            "cyclonedx_py", "environment", "--pyproject", str(PYPROJECT), "--mc-type", "library", "--sv", "1.6",
            "--output-reproducible", "--validate", "--output-file", str(into), environment,
        )  # fmt: skip


def _run(module: str, *args: str) -> None:
    subprocess.run([sys.executable, "-m", module, *args], check=True)


def main(dist: str, lock: str) -> None:
    """Write both beside the wheel."""
    (wheel,) = Path(dist).resolve().glob("*.whl")
    name = "-".join(wheel.name.split("-")[:2])
    for chosen, suffix in (([], ""), (extras(), "-all-extras")):
        into = wheel.with_name(f"{name}{suffix}.cdx.json")
        bill(wheel, Path(lock), chosen, into)
        print(f"{into.name} is valid CycloneDX")


if __name__ == "__main__":
    main(*sys.argv[1:])
