"""The demo's software tree: what `module` finds there, and that it is replaced as a whole."""

import hashlib
import subprocess
from pathlib import Path

import h5py
import pytest

from deploy import software


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("cvmfs") / "software.demo"
    software.build(directory)
    return directory


def in_shell(tree: Path, script: str) -> str:
    """What a shell puts out that finds its modules in the tree."""
    start = f"set -e; . /usr/share/modules/init/bash; export MODULEPATH={tree}/modulefiles; "
    done = subprocess.run(
        ["bash", "-c", start + script], capture_output=True, text=True, check=True, timeout=30, cwd=tree.parent
    )
    return done.stdout + done.stderr


def test_the_modules_are_on_offer(tree: Path) -> None:
    offered = in_shell(tree, "module --terse avail")

    for name in ("analysis/2026.1", f"h5py/{h5py.__version__}", "visa-sample/1.0"):
        assert name in offered.split()


def test_a_loaded_module_brings_its_programs_and_an_unloaded_one_takes_them_away(tree: Path) -> None:
    sample = tree.parent / "sample.txt"
    sample.write_bytes(b"counts\n")
    known = hashlib.sha256(b"counts\n").hexdigest()

    said = in_shell(
        tree,
        "module load visa-sample; sample-hash sample.txt; module unload visa-sample; type -P sample-hash || echo away",
    )

    assert said.splitlines() == [f"sha256:{known} 7 sample.txt", "away"]


def test_an_hdf5_file_is_summarised_by_the_machines_own_python(tree: Path) -> None:
    with h5py.File(tree.parent / "sample.h5", "w") as file:
        file.create_group("entry").attrs["NX_class"] = "NXentry"
        file["entry/counts"] = [[1, 2, 3]]

    said = in_shell(tree, "module load analysis >&-; h5summary sample.h5")

    assert "entry/  NXentry" in said
    assert "counts: 1 x 3 of int64" in said


def test_a_tree_that_is_as_it_should_be_is_left_alone(tree: Path) -> None:
    before = tree.stat().st_ino

    software.build(tree)

    assert tree.stat().st_ino == before


def test_an_old_tree_is_replaced_as_a_whole(tmp_path: Path) -> None:
    tree = tmp_path / "software"
    software.build(tree)
    (tree / ".built").write_text("another version\n")
    (tree / "modulefiles" / "left-over").touch()

    assert "visa-sample/1.0" in software.build(tree)

    assert not (tree / "modulefiles" / "left-over").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["software"]


def test_everybody_may_read_it_and_run_its_programs(tree: Path) -> None:
    for path in tree.rglob("*"):
        wanted = 0o555 if path.is_dir() or path.parent.name == "bin" else 0o444
        assert path.stat().st_mode & wanted == wanted, path
