"""The demo's data: small sample files in NeXus' way, and the records that name them.

The DOIs are real and public; what stands behind them here is not. Every file says so in its attributes, and every
directory in a README.txt. Persons are called by parts, not by names.

    python -m deploy.demo_data DIRECTORY --issuer URL     writes the files and DIRECTORY/../records.json
    python -m deploy.demo_data --table                    prints docs/demo-data.md
"""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

RECORDS = Path(__file__).with_name("demo_records.json")
TABLE = Path(__file__).parent.parent / "docs" / "demo-data.md"

#: what the records name instead of the provider's address, which each demo has its own
ISSUER = "the demo's provider"

NOTICE = (
    "This is a SAMPLE, computed on this machine by the demo of the platform. It is NOT the dataset that the DOI {doi} "
    "names, and holds no measured value."
)


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A DOI of the demo, the path of its files below the data directory (empty: none here), and what it shows."""

    doi: str
    path: str
    shows: str


_SHOWS = {
    "10.5291/ILL-DATA.8-02-912": "open since a date: anybody signed in may launch",
    "10.16907/d699e1f7-e822-4396-8c64-34ed405f07b7": "open by its access right",
    "10.5442/ND000001": "open since a month that is over",
    "10.22003/XFEL.EU-DATA-900390-00": "a team's: to others it looks unknown",
    "10.5291/ILL-DATA.9-13-612": "a team's, with a public description: others see when it opens",
    "10.15151/ESRF-ES-2210534378": "under embargo until 2028-09-06, although CC-BY",
    "10.15151/ESRF-DC-2493599001": "no opening date known: closed",
    "10.5291/ILL-DATA.TEST-3346": "withdrawn",
    "10.5286/ISIS.E.RB1810842": "open, but held elsewhere",
    "10.5442/NI000001": "an instrument, not data",
    "10.3204/DESY-PROC-2014-05/23": "a text, with two slashes in its DOI",
}


def _document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(RECORDS.read_text(encoding="utf-8"))
    return found


def _shown() -> tuple[Shown, ...]:
    paths = {record["doi"]: record.get("path", "") for record in _document()["datasets"]}
    return tuple(Shown(doi=doi, path=paths[doi], shows=shows) for doi, shows in _SHOWS.items())


#: every DOI of the demo, the first ones to try first
SHOWN = _shown()
#: the one that `deploy/demo --check` opens
CHECKED = SHOWN[0]


def _rings(numbers: Any, numpy: Any) -> Mapping[str, Any]:
    """A detector image of scattering around a beam: a form factor's rings with counting noise."""
    y, x = numpy.mgrid[-64:64, -64:64]
    q = numpy.hypot(x, y) / 12 + 0.3
    shape = (3 * (numpy.sin(q) - q * numpy.cos(q)) / q**3) ** 2
    return {"data": numbers.poisson(4000 * shape + 2).astype("int32"), "x": x[0] * 5.0, "y": y[:, 0] * 5.0}


def _peaks(numbers: Any, numpy: Any) -> Mapping[str, Any]:
    """A powder pattern: peaks over a background, and a second scan at another temperature."""
    angle = numpy.linspace(10, 120, 1101)
    scans = [
        sum(height * numpy.exp(-(((angle - place - shift) / 0.35) ** 2)) for height, place in _LINES) + 40
        for shift in (0.0, -0.4, -0.9)
    ]
    return {"data": numbers.poisson(scans).astype("int32"), "scan": numpy.arange(3), "two_theta": angle}


_LINES = ((900, 28.4), (520, 47.3), (310, 56.1), (95, 69.1), (180, 76.4), (240, 88.0), (130, 94.9), (150, 106.7))


def _edge(numbers: Any, numpy: Any) -> Mapping[str, Any]:
    """An absorption spectrum: an edge with a few wiggles behind it."""
    energy = numpy.linspace(7000, 7700, 1401)
    past = numpy.clip(energy - 7112, 0, None)
    wiggle = 0.08 * numpy.sin(2.6 * numpy.sqrt(past)) * numpy.exp(-past / 250)
    absorption = 0.1 + (1 + wiggle) / (1 + numpy.exp(-(energy - 7112) / 1.6))
    return {"data": absorption + numbers.normal(0, 0.003, energy.size), "energy": energy}


def _stack(numbers: Any, numpy: Any) -> Mapping[str, Any]:
    """A few projections of a ball with a hole in it, turning."""
    y, x = numpy.mgrid[-32:32, -32:32] / 24.0
    angles = numpy.linspace(0, 180, 13)
    images = []
    for angle in numpy.radians(angles):
        ball = numpy.sqrt(numpy.clip(1 - x**2 - y**2, 0, None))
        hole = numpy.sqrt(numpy.clip(0.06 - (x - 0.5 * numpy.cos(angle)) ** 2 - (y - 0.1) ** 2, 0, None))
        images.append(1000 * numpy.exp(-1.4 * (ball - hole)))
    return {"data": numbers.poisson(images).astype("uint16"), "angle": angles, "y": y[:, 0], "x": x[0]}


_MADE: Mapping[str, tuple[str, Callable[[Any, Any], Mapping[str, Any]]]] = {
    "ill/8-02-912": ("scattering", _rings),
    "ill/9-13-612": ("diffraction", _peaks),
    "esrf/es-2210534378": ("projections", _stack),
    "psi/d699e1f7": ("scattering", _rings),
    "xfel/p900390": ("pulses", _stack),
    "hzb/nd000001": ("spectrum", _edge),
}


def _write_file(file: Path, record: Mapping[str, Any], seed: int) -> None:
    """One NeXus file: NXroot, NXentry and NXdata, with the default plot marked."""
    import h5py
    import numpy

    made = _MADE[record["path"]][1](numpy.random.default_rng(seed), numpy)
    notice = NOTICE.format(doi=record["doi"])
    # Under another name first: a start that is cut off leaves no half file that the next takes for whole.
    part = file.with_suffix(".part")
    with h5py.File(part, "w") as root:
        root.attrs.update({"NX_class": "NXroot", "default": "entry", "notice": notice, "creator": "the demo"})
        entry = root.create_group("entry")
        entry.attrs.update({"NX_class": "NXentry", "default": "data", "notice": notice})
        entry["title"] = record["title"]
        entry["notes"] = notice
        entry["entry_identifier"] = f"sample {seed}"
        data = entry.create_group("data")
        axes = [name for name in made if name != "data"]
        ordered = sorted(axes, key=list(made).index)
        if ordered == ["x", "y"]:
            ordered = ["y", "x"]
        data.attrs.update({"NX_class": "NXdata", "signal": "data", "axes": ordered})
        for name, values in made.items():
            data.create_dataset(name, data=values, compression="gzip" if values.ndim > 1 else None)
    part.rename(file)


def write(directory: Path, *, issuer: str) -> Path:
    """Write what is missing of the sample files below `directory`, and the records beside it; the records' file.

    `issuer` is the address of the demo's provider, whose people the teams are made of.
    """
    document = json.loads(RECORDS.read_text(encoding="utf-8").replace(ISSUER, issuer))
    document["harvested_at"] = datetime.now(UTC).isoformat(timespec="seconds")
    for number, record in enumerate(document["datasets"]):
        if not record.get("path"):
            continue
        place = directory / record["path"]
        place.mkdir(parents=True, exist_ok=True)
        readme = place / "README.txt"
        readme.write_text(f"{record['title']}\n\n{NOTICE.format(doi=record['doi'])}\n", encoding="utf-8")
        files = [place / f"{_MADE[record['path']][0]}-{run:02}.nxs" for run in (1, 2)]
        for run, file in enumerate(files):
            if not file.exists():
                _write_file(file, record, seed=100 * number + run)
        written = [readme, *files]
        record["files"], record["size_bytes"] = len(written), sum(one.stat().st_size for one in written)
    described = directory.parent / "records.json"
    described.write_text(json.dumps(document, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return described


def table() -> str:
    """docs/demo-data.md: each DOI and what it shows."""
    lines = [
        "# The demo's data",
        "",
        "The DOIs are real and public. What the demo mounts under them is not the data they name: small sample files",
        "computed by `deploy/demo_data.py`. They say so in their attributes, and in a README.txt beside them. Titles",
        "are generic, and persons are called by parts.",
        "",
        "| DOI | what it shows |",
        "|---|---|",
        *(f"| `{record.doi}` | {record.shows} |" for record in SHOWN),
        "",
        "The scientist and the team-mate are the team of `10.22003/XFEL.EU-DATA-900390-00`; the instrument scientist",
        "looks after its instrument. `10.5291/ILL-DATA.9-13-612` is the scientist's alone. The stranger and the",
        "administrator are of no team: nobody sees closed data by being an administrator.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="deploy.demo_data", description="The demo's sample files and records.")
    parser.add_argument("directory", type=Path, nargs="?", help="where the sample files go")
    parser.add_argument("--issuer", default="http://127.0.0.1/", help="the provider of the teams' people")
    parser.add_argument("--table", action="store_true", help="print docs/demo-data.md")
    asked = parser.parse_args()
    if asked.table:
        print(table(), end="")
    elif asked.directory is None:
        parser.error("say where the sample files go")
    else:
        print(write(asked.directory, issuer=asked.issuer))


if __name__ == "__main__":
    main()
