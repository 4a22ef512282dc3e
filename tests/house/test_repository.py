"""What is in the repository: nothing that does not belong there, and everything named as the house names it."""

import re
import subprocess
from pathlib import Path

import pytest
from django.apps import apps
from django.core.management import call_command
from django.urls import URLPattern, URLResolver, get_resolver

from deploy.processes import ROOT
from visa.celery import app as celery

APPS = ("visa", "quotas", "experiments", "instances")


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    return [ROOT / name for name in listed.decode().split("\0") if name and (ROOT / name).is_file()]


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


# --- what does not belong there ----------------------------------------------------------------------------------

FOREIGN = re.compile(
    # where packages came from; the brackets keep this file from naming them
    r"registry\.npm[j]s\.org|files\.python[h]osted\.org|py[p]i\.org/simple|/opt/(py[p]i|wheels)"
    r"|/[w]ork/(main|shared)"  # where somebody worked
    r"|BEGIN (RSA |EC |OPENSSH )?PRIVATE KEY-----\n[A-Za-z0-9+/]{20}"  # a secret
)


def test_no_file_names_a_package_host_a_workplace_or_holds_a_key() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0][:60]}" for path in tracked() for match in FOREIGN.finditer(text_of(path))
    ]

    assert found == []


def test_nothing_fetched_or_built_is_tracked() -> None:
    folders = {"node_modules", ".visa", "__pycache__", "dist", ".mypy_cache", ".ruff_cache"}

    assert [path for path in tracked() if folders & set(path.parts[len(ROOT.parts) :])] == []


def test_no_file_is_large() -> None:
    allowed = {"requirements.lock"}

    assert [path for path in tracked() if path.stat().st_size > 400_000 and path.name not in allowed] == []


def test_the_licence_is_bsd_3_clause() -> None:
    licence = " ".join(text_of(ROOT / "LICENSE").split())

    assert "Redistributions in binary form must reproduce the above copyright notice" in licence
    assert "Neither the name of the copyright holder nor the names of its contributors" in licence


def test_no_test_is_skipped_and_nothing_is_left_for_later() -> None:
    words = re.compile(r"pytest\.(mark\.)?(skip|xfail|importorskip)|\b(TODO|FIXME|XXX)\b")
    found = [
        f"{path.relative_to(ROOT)}: {match[0]}"
        for path in tracked()
        if path.suffix in {".py", ".js", ".mjs", ".html", ".css", ".sh", ".md"} and path != Path(__file__).resolve()
        for match in words.finditer(text_of(path))
    ]

    assert found == []


# --- names -------------------------------------------------------------------------------------------------------


def test_tasks_are_named_by_app_and_verb_with_a_queue_of_their_own() -> None:
    celery.loader.import_default_modules()
    ours = {name: task for name, task in celery.tasks.items() if not name.startswith("celery.")}

    assert ours
    for name, task in ours.items():
        assert re.fullmatch(rf"({'|'.join(APPS)}|visa\.(accounts|audit|outbox))\.[a-z]+(_[a-z]+)*", name), name
        assert task.__module__ == f"{name.rpartition('.')[0]}.tasks", name
        assert task.acks_late, f"{name} would be lost with its worker"


def url_patterns(resolver: URLResolver, app: str = "") -> list[tuple[str, URLPattern]]:
    found: list[tuple[str, URLPattern]] = []
    for one in resolver.url_patterns:
        if isinstance(one, URLPattern):
            found.append((app, one))
        else:
            found += url_patterns(one, one.app_name or app)
    return found


def test_addresses_are_named_and_end_with_a_slash() -> None:
    for app, pattern in url_patterns(get_resolver()):
        if app in {"admin", "djdt"}:
            continue
        route = str(pattern.pattern)
        assert pattern.name, route
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", pattern.name), pattern.name
        last = route.rsplit("/", 1)[-1]
        # a DOI may end with a slash of its own, so nothing is put behind one
        assert not last or last == "<path:doi>" or re.fullmatch(r"[a-z]+\.(css|json|txt)", last), route


def test_no_two_addresses_have_one_name() -> None:
    names = [(app, pattern.name) for app, pattern in url_patterns(get_resolver()) if app != "admin"]

    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("label", ["accounts", "outbox", "quotas", "experiments", "instances"])
def test_migrations_are_numbered_and_named(label: str) -> None:
    folder = Path(apps.get_app_config(label).path) / "migrations"
    files = sorted(path.stem for path in folder.glob("[0-9]*.py"))

    assert files
    for number, name in enumerate(files, start=1):
        assert re.fullmatch(rf"{number:04d}_[a-z][a-z_0-9]*", name), name
        assert "auto" not in name, name


@pytest.mark.django_db
def test_the_models_have_their_migrations() -> None:
    call_command("makemigrations", check=True, dry_run=True, verbosity=0)


def test_there_is_no_room_for_leftovers() -> None:
    leftovers = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager", "managers"}

    assert [path for path in tracked() if path.suffix == ".py" and path.stem in leftovers] == []


# --- templates ---------------------------------------------------------------------------------------------------

TEMPLATES = ROOT / "templates"
#: found by Django under these names
BY_NAME = {"404.html", "500.html", "admin/base_site.html", "admin/base.html", "admin/login.html"}


def templates() -> set[str]:
    return {str(path.relative_to(TEMPLATES)) for path in tracked() if path.is_relative_to(TEMPLATES)}


def named_templates() -> set[str]:
    """Templates that code or other templates name."""
    code = [path for path in tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in APPS]
    pages = [path for path in tracked() if path.is_relative_to(TEMPLATES)]
    return {
        name for path in [*code, *pages] for name in re.findall(r"[\"']([\w/-]+\.(?:html|txt))[\"']", text_of(path))
    }


def test_every_template_is_used() -> None:
    assert templates() - named_templates() - BY_NAME == set()


def test_every_template_that_is_named_is_there() -> None:
    ours = {name for name in named_templates() if not name.startswith(("admin/", "django/", "registration/"))}

    assert ours - templates() == set()


def test_templates_stand_in_their_apps_folder() -> None:
    folders = {path.name for path in TEMPLATES.iterdir() if path.is_dir()}

    assert folders <= {"accounts", "audit", "quotas", "experiments", "instances", "admin", "mail"}
