"""What is locked is at or above the floors below which something is known to be wrong, and comes from nowhere named."""

import json
import re

import pytest

from deploy import prepare
from deploy.processes import ROOT

#: package: lowest version, and why
PYTHON_FLOORS = {
    "django": ("5.2.13", "CVE-2026-3902, CVE-2025-14550, CVE-2026-4277, CVE-2026-4292"),
    "uvicorn": ("0.53", "flow control when writing to a websocket"),
    "channels": ("4.3.2", "as measured"),
    "channels-redis": ("4.3", "as measured"),
    "djangorestframework": ("3.18", "CVE-2020-25626 and later"),
    "celery": ("5.7", "CVE-2021-23727"),
    "kombu": ("5.7", "goes with Celery 5.7"),
    "pyjwt": ("2.12", "CVE-2022-29217, CVE-2026-32597"),
    "mozilla-django-oidc": ("5.0.2", "the version whose checks are known, and completed"),
    "openstacksdk": ("4.22", "time-outs and retries can be set as needed"),
    "keystoneauth1": ("5.18", "goes with openstacksdk 4.22"),
}
NPM_FLOORS = {
    "visa/frontend": {"@novnc/novnc": "1.7", "htmx.org": "2.0"},
    "deploy/identity": {"oidc-provider": "9.0"},
}
NEVER = {"daphne"}  # no back-pressure: a slow viewer fills the server's memory (CVE-2026-44545, CVE-2026-44546)

LOCK = prepare.LOCK.read_text(encoding="utf-8")


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text))


def locked() -> dict[str, str]:
    """Every locked package with its lowest locked version (a package may differ by Python's version)."""
    found: dict[str, str] = {}
    for name, block, _ in prepare.blocks(LOCK):
        said = re.match(r"[^=]+==([^ ;\\\n]+)", block)
        assert said, block
        if name not in found or version(said[1]) < version(found[name]):
            found[name] = said[1]
    return found


@pytest.mark.parametrize("name", PYTHON_FLOORS)
def test_a_python_package_is_not_below_its_floor(name: str) -> None:
    floor, why = PYTHON_FLOORS[name]

    assert version(locked()[name]) >= version(floor), why


@pytest.mark.parametrize("place", prepare.NPM)
def test_npm_packages_are_pinned_not_below_their_floors(place: str) -> None:
    asked = json.loads((ROOT / place / "package.json").read_text(encoding="utf-8"))
    lock = json.loads((ROOT / place / "package-lock.json").read_text(encoding="utf-8"))["packages"]

    for name, exact in {**asked["dependencies"], **asked.get("devDependencies", {})}.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", exact), f"{name} is asked for as {exact}, which is no one version"
        assert lock[f"node_modules/{name}"]["version"] == exact
    for name, floor in NPM_FLOORS[place].items():
        assert version(lock[f"node_modules/{name}"]["version"]) >= version(floor)


@pytest.mark.parametrize("place", prepare.NPM)
def test_every_npm_package_is_locked_with_its_hash_and_from_no_named_host(place: str) -> None:
    lock = json.loads((ROOT / place / "package-lock.json").read_text(encoding="utf-8"))["packages"]

    for name, entry in lock.items():
        if name:
            assert entry["integrity"].startswith("sha512-"), name
            assert "resolved" not in entry, name


def test_every_python_package_is_locked_with_its_hash_and_from_no_named_host() -> None:
    assert all("--hash=sha256:" in block for _, block, _ in prepare.blocks(LOCK))
    assert "index-url" not in LOCK
    assert "http" not in re.sub(r"\bhttp(tools|lib2|core|x)\b", "", LOCK)


def test_what_must_not_be_used_is_not_locked() -> None:
    assert not NEVER & set(locked())


def test_the_lock_holds_all_that_the_project_asks_for() -> None:
    asked = prepare.roots("test")

    assert asked <= set(locked())


def test_a_part_of_the_lock_is_complete_in_itself() -> None:
    lock = "\n".join(
        [
            "a==1 \\\n    # via visa (pyproject.toml)",
            "b==1 \\\n    # via a",
            "c==1 \\\n    # via\n    #   b\n    #   d",
            "d==1 \\\n    # via visa (pyproject.toml)",
        ]
    )

    assert [name for name, _, _ in prepare.blocks(prepare.selected(lock, {"a"}))] == ["a", "b", "c"]
