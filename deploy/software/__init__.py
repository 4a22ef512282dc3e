"""The demo's software tree: what stands under /cvmfs on a facility's machines, made of what is installed here.

`build(directory)` makes, below `directory`, modulefiles for `module load` and the programs they bring into reach:

- `visa-sample/1.0`: `sample-hash`, in shell, on every machine;
- `h5py/<version>`: h5py and NumPy as installed beside the platform, and `h5summary`, where the machine's own Python is
  of the version they were built for;
- `analysis/2026.1`: everything above at once.

Machines mount it read-only. It is replaced as a whole: a machine that runs keeps what it has mounted.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

_TREE = Path(__file__).parent / "tree"
_PYTHON = "/usr/bin/python3"


def build(directory: Path) -> tuple[str, ...]:
    """Makes the tree, unless it is there as it would be made, and returns the names of its modules.

    Raises OSError where the directory cannot be written.
    """
    packages = dict(_python_packages())
    stamp = _stamp(packages)
    marker = directory / ".built"
    if not (marker.is_file() and marker.read_text(encoding="utf-8") == stamp):
        fresh = directory.with_name(f".{directory.name}-{secrets.token_hex(4)}")
        try:
            _make(fresh, packages)
            (fresh / ".built").write_text(stamp, encoding="utf-8")
            if directory.exists():
                old = directory.with_name(f".{directory.name}-{secrets.token_hex(4)}")
                directory.rename(old)
                fresh.rename(directory)
                shutil.rmtree(old)
            else:
                fresh.rename(directory)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    modulefiles = directory / "modulefiles"
    return tuple(sorted(str(path.relative_to(modulefiles)) for path in modulefiles.glob("*/*")))


def _make(fresh: Path, packages: dict[str, Path]) -> None:
    shutil.copytree(_TREE, fresh, ignore=shutil.ignore_patterns("__pycache__"))
    if packages:
        version = importlib.metadata.version("h5py")
        (fresh / "software/h5py/VERSION").rename(fresh / f"software/h5py/{version}")
        (fresh / "modulefiles/h5py/VERSION").rename(fresh / f"modulefiles/h5py/{version}")
        library = fresh / f"software/h5py/{version}/lib"
        for name, source in packages.items():
            shutil.copytree(
                source, library / name, copy_function=_link, ignore=shutil.ignore_patterns("tests", "*.pyi", "include")
            )
    else:
        shutil.rmtree(fresh / "software/h5py")
        shutil.rmtree(fresh / "modulefiles/h5py")
    for path in [fresh, *fresh.rglob("*")]:
        # Whoever uses the desktop is not who made this.
        path.chmod(path.stat().st_mode | (0o555 if path.is_dir() or path.parent.name == "bin" else 0o444))


def _python_packages() -> Iterator[tuple[str, Path]]:
    """h5py, NumPy and the libraries in their wheels, where the machine's Python can load what is installed for ours."""
    if importlib.util.find_spec("h5py") is None or not Path(_PYTHON).exists():
        return
    asked = [_PYTHON, "-c", "import sys; print(*sys.version_info[:2])"]
    theirs = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20).stdout.split()
    if [int(number) for number in theirs] != list(sys.version_info[:2]):
        return
    for name in ("h5py", "numpy"):
        spec = importlib.util.find_spec(name)
        if spec is None or spec.origin is None:
            raise FileNotFoundError(f"{name} is installed without files")
        package = Path(spec.origin).parent
        yield name, package
        if (libraries := package.with_name(f"{name}.libs")).is_dir():
            yield libraries.name, libraries


def _stamp(packages: dict[str, Path]) -> str:
    """What the tree would be made of: a tree with the same stamp need not be made again."""
    digest = hashlib.sha256()
    for path in sorted(_TREE.rglob("*")):
        if path.is_file():
            digest.update(f"{path.relative_to(_TREE)}\0".encode() + path.read_bytes())
    versions = [f"{name}={importlib.metadata.version(name)}" for name in ("h5py", "numpy") if name in packages]
    return f"{digest.hexdigest()} {' '.join(versions)}\n"


def _link(source: str, target: str) -> str:
    """The same file under a second name where that is possible: NumPy is large."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target
