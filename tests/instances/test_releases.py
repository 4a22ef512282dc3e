"""Code that a migration has outrun drives no machine, and what it left is driven by the new code."""

import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
from django.db.migrations import RunSQL
from django.db.migrations.loader import MigrationLoader
from django.db.models.functions import Now
from psycopg import sql

from deploy import processes
from deploy.processes import ROOT, Running
from experiments.models import Dataset
from instances import actions, doctor, pacing, provisioning, releases, transitions, watch
from instances.actions import Launch
from instances.cloud.memory import MemoryCloud
from instances.lifecycle import State
from instances.models import Image, Instance, Release, Watch
from quotas.models import Flavour, Limit
from tests import factories
from tests.machines import settle
from visa.accounts.models import User

NEXT = releases.KNOWN + 1


@pytest.fixture
def dataset(flavour: Flavour, image: Image, limit: Limit) -> Dataset:
    return factories.make_dataset()


@pytest.fixture
def launched(owner: User, dataset: Dataset) -> UUID:
    return actions.launch(Launch(doi=dataset.minted), by=owner).instance_id


@pytest.fixture
def outrun(db: None) -> Iterator[None]:
    """The tables need a release this code does not know; its process has not asked yet."""
    releases.newer()
    Release.objects.create(number=NEXT, why="machines have a colour", at=Now())
    yield
    Release.objects.filter(number=NEXT).delete()
    releases.newer()


def test_the_migrations_need_just_what_this_code_knows() -> None:
    """A migration that writes a number and code that does not know it would stand still everywhere."""
    migrations = MigrationLoader(None).disk_migrations
    statements = [
        str(operation.sql)
        for (app, _), migration in migrations.items()
        for operation in migration.operations
        if app == "instances" and isinstance(operation, RunSQL)
    ]
    number = re.compile(r"INTO instances_release[^;]*?VALUES \((\d+),")
    written = [int(one) for said in statements for one in number.findall(said)]

    assert max(written) == releases.KNOWN


def test_a_claim_is_refused_from_the_very_commit_that_outran_the_code(launched: UUID, outrun: None) -> None:
    """Whatever this process believed a moment ago."""
    pacing.admit()
    assert not releases.outdated()

    assert transitions.claim(launched) is None
    assert Instance.objects.get(id=launched).fence == 0


def test_outrun_code_lets_nobody_in_watches_nothing_and_says_so_once(
    launched: UUID, cloud: MemoryCloud, outrun: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert releases.newer() is not None
        for _ in range(3):
            assert provisioning.advance(cloud) is None
            watch.turn(cloud)

    assert Instance.objects.get(id=launched).state == State.WAITING
    assert not Watch.objects.exists()
    told = [one.getMessage() for one in caplog.records if "release" in one.getMessage()]
    assert len(told) == 1
    assert "machines have a colour" in told[0]


def test_the_doctor_of_outrun_code_says_what_to_do(outrun: None) -> None:
    (found,) = doctor.examine(["Migrations"])

    assert not found.ok
    assert f"release {NEXT} (machines have a colour)" in found.sentence
    assert found.to_do == "Start the new release in its place."


def test_code_goes_on_when_the_migration_is_taken_back(launched: UUID, cloud: MemoryCloud, outrun: None) -> None:
    releases.newer()
    Release.objects.filter(number=NEXT).delete()
    releases.newer()

    assert settle(cloud, launched).state == State.ACTIVE


# --- two releases beside each other ------------------------------------------------------------------------------

#: what the next release brings: a column that old code never fills, and so must not make rows ready without
_MIGRATION = """
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("instances", "{last}")]
    operations = [
        migrations.AddField("instance", "colour", models.CharField(max_length=10, db_default="grey", default="grey")),
        migrations.RunSQL(
            "INSERT INTO instances_release VALUES ({number}, 'machines have a colour', statement_timestamp())",
            "DELETE FROM instances_release WHERE number = {number}",
        ),
    ]
"""


def _connected(database: str) -> psycopg.Connection[tuple[Any, ...]]:
    host, user = os.environ["VISA_DATABASE_HOST"], os.environ["VISA_DATABASE_USER"]
    return psycopg.connect(host=host, user=user, dbname=database, autocommit=True)


@dataclass(frozen=True, kw_only=True)
class _Site:
    """A database of its own, and the two releases that meet on it."""

    database: str
    place: Path

    def variables(self, process: str) -> dict[str, str]:
        return os.environ | {"VISA_PROCESS": process, "VISA_DATABASE_NAME": self.database, "PYTHONUNBUFFERED": "1"}

    def migrate(self, code: Path) -> None:
        command = [sys.executable, "manage.py", "migrate", "--verbosity", "0"]
        subprocess.run(command, cwd=code, env=self.variables("command"), check=True, timeout=300)

    def reconciler(self, code: Path, name: str) -> Running:
        return processes.start(
            name,
            [sys.executable, "manage.py", "run_reconciler"],
            log=self.place / f"{name}.log",
            environment=self.variables("reconciler"),
            directory=code,
        )

    def launch(self, name: str) -> str:
        """Asks for a machine with the old release's code; its id."""
        command = [sys.executable, "-c", _LAUNCH, name]
        said = subprocess.run(
            command, cwd=ROOT, env=self.variables("command"), check=True, timeout=300, capture_output=True, text=True
        )
        return said.stdout

    def claims_of(self, instance_id: str) -> int:
        """How often the machine was claimed."""
        with _connected(self.database) as connection:
            found = connection.execute("SELECT fence FROM instances_instance WHERE id = %s", [instance_id]).fetchone()
        return int(found[0]) if found else 0


@pytest.fixture
def site(tmp_path: Path) -> Iterator[_Site]:
    name = f"two_releases_{os.getpid()}"
    with _connected("postgres") as connection:
        connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
        yield _Site(database=name, place=tmp_path)
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


@pytest.fixture
def next_release(tmp_path: Path) -> Path:
    """This code, copied, with one more migration and the number that goes with it."""
    code = tmp_path / "next"
    code.mkdir()
    for part in ("visa", "instances", "quotas", "experiments", "templates"):
        ignored = shutil.ignore_patterns("node_modules", "__pycache__")
        shutil.copytree(ROOT / part, code / part, ignore=ignored, symlinks=True)
    shutil.copy(ROOT / "manage.py", code)
    last = max(one.stem for one in (code / "instances" / "migrations").glob("0*.py"))
    migration = code / "instances" / "migrations" / f"{int(last[:4]) + 1:04}_colour.py"
    migration.write_text(_MIGRATION.format(last=last, number=NEXT), encoding="utf-8")
    known = code / "instances" / "releases.py"
    text = known.read_text(encoding="utf-8")
    assert f"KNOWN: Final = {releases.KNOWN}\n" in text
    known.write_text(text.replace(f"KNOWN: Final = {releases.KNOWN}\n", f"KNOWN: Final = {NEXT}\n"), encoding="utf-8")
    models = code / "instances" / "models.py"
    text = models.read_text(encoding="utf-8")
    field = "    gone = models.BooleanField(default=False)\n"
    assert text.count(field) == 1
    colour = '    colour = models.CharField(max_length=10, default="grey", db_default="grey")\n'
    models.write_text(text.replace(field, field + colour), encoding="utf-8")
    return code


#: what a page of the old release does for a person
_LAUNCH = """
import sys
import django

django.setup()
from instances import actions
from instances.models import Image
from tests import factories

if not Image.objects.exists():
    factories.make_image(), factories.make_flavour(), factories.make_limit()
name = sys.argv[1]
dataset = factories.make_dataset(doi=f"10.5555/{name}")
launched = actions.launch(actions.Launch(doi=dataset.minted), by=factories.make_user(subject=name))
sys.stdout.write(str(launched.instance_id))
"""


def test_while_two_releases_run_only_the_new_one_drives_and_nothing_is_lost(site: _Site, next_release: Path) -> None:
    site.migrate(ROOT)
    with site.reconciler(ROOT, "old") as old:
        first = site.launch("first")
        processes.wait_until(lambda: site.claims_of(first) > 0, old, seconds=90)

        site.migrate(next_release)
        second = site.launch("second")  # an old page still takes wishes: the new column has its default
        processes.wait_until(lambda: f"the tables need release {NEXT}" in old.said(1000), old, seconds=60)
        assert site.claims_of(second) == 0

        with site.reconciler(next_release, "new") as new:
            processes.wait_until(lambda: site.claims_of(second) > 0, new, seconds=90)
        assert old.alive, old.said()
    assert old.popen.returncode == 0, old.said()
