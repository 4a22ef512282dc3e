"""A process stops where a test asks it to, and nowhere else."""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from django.conf import LazySettings

from instances import checkpoints, checks
from instances.lifecycle import Pace
from instances.pace import pace
from visa.environment import Environment

PASSES = "from instances import checkpoints as c; c.arm({place!r}); c.checkpoint(c.CLAIMED); print('on')"


def passing(place: Path) -> subprocess.Popen[str]:
    """A process that passes one point and says so."""
    code = PASSES.format(place=str(place))
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


@pytest.fixture
def pipes(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / checkpoints.CLAIMED)
    os.mkfifo(tmp_path / f"{checkpoints.CLAIMED}.go")
    return tmp_path


def test_a_process_stands_at_a_point_until_it_is_killed(pipes: Path) -> None:
    with passing(pipes) as process:
        assert int((pipes / checkpoints.CLAIMED).read_text()) == process.pid
        assert process.poll() is None

        process.send_signal(signal.SIGKILL)

        assert process.communicate()[0] == ""


def test_a_process_goes_on_when_it_is_let_go(pipes: Path) -> None:
    with passing(pipes) as process:
        assert (pipes / checkpoints.CLAIMED).read_text()

        (pipes / f"{checkpoints.CLAIMED}.go").write_text("")

        assert process.communicate()[0] == "on\n"


def test_where_nothing_was_asked_nobody_stands(tmp_path: Path) -> None:
    with passing(tmp_path) as process:
        assert process.communicate(timeout=30)[0] == "on\n"
    assert not list(tmp_path.iterdir())


def test_every_point_has_a_name_of_its_own() -> None:
    assert len(set(checkpoints.ALL)) == len(checkpoints.ALL) == 10


def test_all_times_shrink_by_one_factor() -> None:
    usual, short = Pace(), Pace().scaled(0.1)

    assert short.quiet == usual.quiet / 10
    assert short.rebuild == tuple(one / 10 for one in usual.rebuild)
    assert usual.budget * 2 <= usual.lease
    assert usual.sweep_age > usual.quiet


def test_the_quiet_period_is_the_site_s_own(settings: LazySettings) -> None:
    settings.ENVIRONMENT = _with(settings, environment="test-x", quiet_seconds=7)

    assert pace().quiet.total_seconds() == 7


@pytest.mark.parametrize(
    ("environment", "directory", "refused"),
    [("production", "", []), ("production", "/tmp/points", ["instances.E002"]), ("test-x", "/tmp/points", [])],  # noqa: S108
)
def test_a_site_with_checkpoints_is_refused(
    settings: LazySettings, environment: str, directory: str, refused: list[str]
) -> None:
    settings.ENVIRONMENT = _with(settings, environment=environment, checkpoints=directory)

    found = checks.test_switches_are_for_tests(None)

    assert [one.id for one in found] == refused


def _with(settings: LazySettings, *, environment: str, checkpoints: str = "", quiet_seconds: int = 120) -> object:
    before = settings.ENVIRONMENT
    assert isinstance(before, Environment)
    assert before.cloud is not None
    cloud = replace(before.cloud, environment=environment, quiet_seconds=quiet_seconds)
    return replace(before, cloud=cloud, tests=replace(before.tests, checkpoints=checkpoints))
