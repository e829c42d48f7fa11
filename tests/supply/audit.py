"""``python -m tests.supply.audit LOCK``: does anything that is locked have a known vulnerability?

A finding fails. A service that does not answer, or does not know a package, has audited nothing, which is no finding:
that is said, and fails with ``--strict`` only. Anything else that goes wrong fails, as a lock that cannot be read.
Options behind the lock are handed to pip-audit.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Unreadable", "Verdict", "audited", "judged", "main", "reported"]

UNREACHABLE = re.compile(r"requests\.exceptions\.|ServiceError|ConnectionError")
"""What pip-audit ends with when the service does not answer, or not with what it should."""


class Unreadable(Exception):
    """The audit failed for a reason of its own."""


@dataclass(frozen=True)
class Verdict:
    """What is known.

    Attributes:
        sound: how many packages were audited and have none.
        found: the vulnerabilities, a line each.
        unknown: what was not audited, and why, a line each.
    """

    sound: int
    found: Sequence[str] = ()
    unknown: Sequence[str] = ()


def audited(lock: str, *options: str) -> Verdict:
    """Ask pip-audit (`Unreadable`)."""
    command = [sys.executable, "-m", "pip_audit", "--requirement", lock, "--require-hashes", "--disable-pip"]
    command += ["--vulnerability-service", "osv", "--format", "json", "--progress-spinner", "off", *options]
    ended = subprocess.run(command, capture_output=True, text=True)
    return judged(ended.stdout, ended.stderr)


def judged(answer: str, complaint: str) -> Verdict:
    """What pip-audit's report, or else its last words, say (`Unreadable`)."""
    try:
        packages = json.loads(answer)["dependencies"]
    except ValueError:
        last = (complaint.strip().splitlines() or ["no report"])[-1]
        if UNREACHABLE.search(last):
            return Verdict(0, unknown=[last])
        raise Unreadable(complaint.strip() or last) from None
    if not packages:
        raise Unreadable("the lock names no package")
    found = [_finding(one, each) for one in packages for each in one.get("vulns", ())]
    unknown = [one["skip_reason"] for one in packages if "skip_reason" in one]
    return Verdict(sum(not one.get("vulns") for one in packages) - len(unknown), found, unknown)


def _finding(package: dict[str, Any], one: dict[str, Any]) -> str:
    fixed = ", ".join(one["fix_versions"]) or "no version yet"
    return f"{package['name']} {package['version']}: {one['id']}, fixed by {fixed}"


def reported(verdict: Verdict, strict: bool) -> tuple[str, int]:
    """What to say, and the exit code."""
    lines = [f"vulnerable: {one}" for one in verdict.found]
    if verdict.unknown:
        some = verdict.sound or verdict.found
        what = f"{len(verdict.unknown)} packages were not" if some else "nothing was"
        lines += [f"warning: {what} audited for known vulnerabilities:", *(f"  {one}" for one in verdict.unknown)]
    if verdict.sound:
        lines.append(f"{verdict.sound} packages have no known vulnerability")
    return "\n".join(lines), int(bool(verdict.found or (strict and verdict.unknown)))


def main(lock: str, *options: str) -> int:
    """Print it; returns the exit code."""
    try:
        verdict = audited(lock, *(one for one in options if one != "--strict"))
    except Unreadable as error:
        print(error, file=sys.stderr)
        return 1
    said, code = reported(verdict, "--strict" in options)
    print(said)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
