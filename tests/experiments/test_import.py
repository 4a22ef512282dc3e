"""Imports: the difference first, everything or nothing, and what opens or takes away waits for somebody's word."""

import copy
import io
import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import h5py
import pytest
from django.core.management import CommandError, call_command
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from deploy import demo_data
from experiments import access, openness
from experiments.actions import Confirm, Difference, Step, import_records, known_of, preview
from experiments.catalogue.document import DocumentFaults, Records, read
from experiments.models import Dataset, Experiment, Facility, InstrumentScientist, Participant, Source
from tests import factories
from visa.accounts.models import User
from visa.errors import Refusal

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DOCS = Path(__file__).parents[2] / "docs" / "import.md"

DOCUMENT: dict[str, Any] = json.loads(re.findall(r"```json\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[0])


def document(**changes: Any) -> dict[str, Any]:
    """The document of docs/import.md, with members replaced by dotted places: `datasets.0.path=...`."""
    found = copy.deepcopy(DOCUMENT)
    for place, value in changes.items():
        *way, last = [int(part) if part.isdigit() else part for part in place.split("__")]
        target: Any = found
        for part in way:
            target = target[part]
        if value is None:
            del target[last]
        else:
            target[last] = value
    return found


def text(value: object) -> bytes:
    return json.dumps(value).encode()


def stated(value: object, *, later: int = 0) -> Records:
    """The records of a document, harvested `later` hours after the documented one."""
    records = read(text(value), now=NOW + timedelta(days=400))
    return replace(records, harvested_at=records.harvested_at + timedelta(hours=later))


def steps(found: Difference) -> list[tuple[str, str, str]]:
    return [(change.step.value, change.kind, change.key) for change in found.changes]


FIRST = [
    ("added", "facility", "facility"),
    ("added", "instrument", "facility/i01"),
    ("added", "technique", "http://purl.org/pan-science/PaNET/PaNET01188"),
    ("added", "experiment", "2026-0417"),
    ("added", "team", "2026-0417"),
    ("added", "scientists", "facility/i01"),
    ("added", "dataset", "10.5555/FACILITY-417"),
]


def faults_of(value: object) -> dict[str, str]:
    with pytest.raises(DocumentFaults) as refused:
        read(value if isinstance(value, bytes) else text(value), now=NOW)
    return {fault.place: fault.message for fault in refused.value.faults}


FAULTS = [
    # the document
    (b"", "$", "no JSON"),
    (b"\xff\xfe", "$", "no JSON"),
    (b"{", "$", "no JSON"),
    (b"[]", "$", "must be an object"),
    (b"null", "$", "must be an object"),
    (b"[" * 100_000, "$", "nested too deeply"),
    (b'{"format": NaN}', "$", "NaN is no JSON"),
    (b'{"a": 1, "a": 2}', "$", "stands twice"),
    (b"{}", "$.format", "must be"),
    (document(format="visa-experiments/2"), "$.format", "must be"),
    (document(source=None), "$.source", "must be an object"),
    (document(source__id="Not A Slug"), "$.source.id", "lower-case"),
    (document(source__name=" "), "$.source.name", "is empty"),
    (document(harvested_at=None), "$.harvested_at", "is missing"),
    (document(harvested_at="yesterday"), "$.harvested_at", "must be a moment"),
    (document(harvested_at="2026-11-20T06:00:00"), "$.harvested_at", "no offset"),
    (document(harvested_at="2027-11-20T06:00:00Z"), "$.harvested_at", "in the future"),
    (document(datset=[]), "$.datset", "not a name of this shape"),
    (document(datasets={}), "$.datasets", "must be a list"),
    (document(datasets=["10.5555/x"]), "$.datasets[0]", "must be an object"),
    # facilities, instruments, techniques
    (document(facilities__0__timezone="Europe/Atlantis"), "$.facilities[0].timezone", "no zone"),
    (document(facilities__0__timezone="../../etc/passwd"), "$.facilities[0].timezone", "no zone"),
    (document(facilities__0__name=7), "$.facilities[0].name", "must be a text"),
    (document(facilities=DOCUMENT["facilities"] * 2), "$.facilities[1].id", "already"),
    (document(facilities=[]), "$.instruments[0].facility", "no facility"),
    (document(instruments=DOCUMENT["instruments"] * 2), "$.instruments[1].id", "already"),
    (document(instruments__0__scientists=[{"issuer": "x"}]), "$.instruments[0].scientists[0]", "names nobody"),
    (document(instruments__0__scientists=[{"subject": "x"}]), "$.instruments[0].scientists[0].issuer", "missing"),
    (document(techniques=[]), "$.datasets[0].techniques[0]", "no technique"),
    # experiments
    (document(experiments__0__title=None), "$.experiments[0].title", "is missing"),
    (document(experiments__0__instrument="facility/i02"), "$.experiments[0].instrument", "no instrument"),
    (document(experiments__0__start="2026-3-2"), "$.experiments[0].start", "must be a day"),
    (document(experiments__0__start="2026-02-30"), "$.experiments[0].start", "must be a day"),
    (document(experiments__0__end="2026-03-01"), "$.experiments[0].end", "before start"),
    (document(experiments=DOCUMENT["experiments"] * 2), "$.experiments[1].id", "already"),
    (document(experiments__0__participants__0__role="boss"), "$.experiments[0].participants[0].role", "one of"),
    (document(experiments__0__participants__0__email="a@b"), "$.experiments[0].participants[0].email", "not a name"),
    (
        document(experiments__0__participants=DOCUMENT["experiments"][0]["participants"][:1] * 2),
        "$.experiments[0].participants[1]",
        "named before",
    ),
    # datasets
    (document(datasets__0__doi=None), "$.datasets[0].doi", "is missing"),
    (document(datasets__0__doi="nonsense"), "$.datasets[0].doi", "is no DOI (no prefix)"),
    (document(datasets__0__doi="10.5555/" + "x" * 600), "$.datasets[0].doi", "too long"),
    (document(datasets__0__title="x" * 501), "$.datasets[0].title", "501 characters"),
    (document(datasets__0__title="a\x00b"), "$.datasets[0].title", "control"),
    (document(datasets__0__title="a\ud800b"), "$.datasets[0].title", "control"),
    (document(datasets__0__kind="data"), "$.datasets[0].kind", "one of"),
    (document(datasets__0__facility="elsewhere"), "$.datasets[0].facility", "no facility"),
    (document(datasets__0__experiment="none"), "$.datasets[0].experiment", "no experiment"),
    (document(datasets__0__creators="A. Researcher"), "$.datasets[0].creators", "list of texts"),
    (document(datasets__0__creators=[7]), "$.datasets[0].creators[0]", "must be a text"),
    (document(datasets__0__publication_year="2029"), "$.datasets[0].publication_year", "whole number"),
    (document(datasets__0__publication_year=True), "$.datasets[0].publication_year", "whole number"),
    (document(datasets__0__size_bytes=-1), "$.datasets[0].size_bytes", "whole number"),
    (document(datasets__0__size_bytes=2**63), "$.datasets[0].size_bytes", "whole number"),
    (document(datasets__0__files=1.5), "$.datasets[0].files", "whole number"),
    (document(datasets__0__path="../secret"), "$.datasets[0].path", "upward"),
    (document(datasets__0__path="/etc"), "$.datasets[0].path", "absolute"),
    (document(datasets__0__landing_url="javascript:alert(1)"), "$.datasets[0].landing_url", "must be an address"),
    (document(datasets__0__landing_url="https://[::1"), "$.datasets[0].landing_url", "must be an address"),
    (document(datasets__0__metadata_public="yes"), "$.datasets[0].metadata_public", "true or false"),
    (document(datasets__0__available="2029-03-05"), "$.datasets[0].available", "list of texts"),
    (document(datasets__0__available=["2020"] * 21), "$.datasets[0].available", "21 entries"),
    (document(datasets__0__flags=[True]), "$.datasets[0].flags", "must be an object"),
    (document(datasets__0__flags={"isPublic": {}}), "$.datasets[0].flags.isPublic", "short value"),
    (document(datasets__0__flags={"isPublic": "x\x00"}), "$.datasets[0].flags.isPublic", "control"),
    (text(document()).replace(b"false}", b"1e999}"), "$.datasets[0].flags.isPublic", "larger than"),
    (document(datasets__0__availabel=["2020"]), "$.datasets[0].availabel", "not a name of this shape"),
]


@pytest.mark.parametrize(("value", "place", "words"), FAULTS, ids=range(len(FAULTS)))
def test_a_fault_is_found_with_its_place(value: object, place: str, words: str) -> None:
    assert words in faults_of(value)[place]


def test_one_doi_in_two_spellings_is_one_dataset_twice() -> None:
    other = {**DOCUMENT["datasets"][0], "doi": "https://doi.org/10.5555/facility-417"}

    assert "already" in faults_of(document(datasets=[DOCUMENT["datasets"][0], other]))["$.datasets[1].doi"]


def test_all_faults_are_listed_at_once_and_nothing_is_imported(db: None, tmp_path: Path) -> None:
    broken = document(
        harvested_at="yesterday",
        facilities__0__timezone="Nowhere",
        experiments__0__title=None,
        datasets__0__doi="x",
        datasets__0__path="../x",
        datasets__0__extra=1,
    )
    file = tmp_path / "records.json"
    file.write_bytes(text(broken))

    with pytest.raises(CommandError) as refused:
        call_command("import_experiments", str(file), apply=True)

    told = str(refused.value)
    assert told.startswith("Nothing was imported: 6 faults in ")
    for place in (
        "harvested_at",
        "facilities[0].timezone",
        "experiments[0].title",
        "datasets[0].doi",
        "datasets[0].path",
    ):
        assert f"$.{place}: " in told
    assert Source.objects.count() == Facility.objects.count() == Dataset.objects.count() == 0


def test_thousands_of_faults_are_cut_short() -> None:
    faults = faults_of(document(datasets=[7] * 5000))

    assert faults["$"] == "and 4,000 further faults"


def test_a_dry_run_shows_the_difference_and_changes_nothing(db: None, tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    file.write_bytes(text(DOCUMENT))
    out = io.StringIO()

    with CaptureQueriesContext(connection) as queries:
        call_command("import_experiments", str(file), stdout=out)

    assert all(query["sql"].startswith("SELECT") for query in queries)
    assert "+ dataset 10.5555/FACILITY-417" in out.getvalue()
    assert "7 added, 0 changed, 0 withdrawn, 0 held, 0 unchanged." in out.getvalue()
    assert "Nothing was changed." in out.getvalue()
    assert Dataset.objects.count() == 0


def test_an_import_brings_everything_in_and_the_second_changes_nothing(db: None, tmp_path: Path) -> None:
    file = tmp_path / "records.json"
    file.write_bytes(text(DOCUMENT))
    out = io.StringIO()

    assert steps(preview(stated(DOCUMENT))) == FIRST
    call_command("import_experiments", str(file), apply=True, stdout=out)

    assert out.getvalue().endswith("Done.\n")
    dataset = Dataset.objects.get()
    assert (dataset.key, dataset.minted) == ("10.5555/facility-417", "10.5555/FACILITY-417")
    assert dataset.opens_at == datetime(2029, 3, 4, 23, tzinfo=UTC)
    assert dataset.path == "i01/2026/0417"
    assert [one.name for one in dataset.techniques.all()] == ["small angle x-ray scattering"]
    assert dataset.experiment is not None
    assert dataset.experiment.title == "Lysozyme at low temperature"
    assert Participant.objects.count() == 2
    assert InstrumentScientist.objects.get().subject == "7c1e"
    again = import_records(stated(DOCUMENT))
    assert (steps(again), again.unchanged) == ([], 5)
    assert set(known_of("user-office", []).datasets.values()) == set(stated(DOCUMENT).datasets)


def test_what_a_document_cannot_do_without_a_word(db: None) -> None:
    """Each change alone against the imported document: held back, and taken once confirmed."""
    import_records(stated(DOCUMENT))
    opening = {
        "it would be open from": [
            document(datasets__0__available=["2028-03-05"]),
            document(datasets__0__available=["2020-01-01"], datasets__0__flags={}),
            document(
                datasets__0__available=[],
                datasets__0__rights=["http://purl.org/coar/access_right/c_abf2"],
                datasets__0__flags={},
            ),
        ],
        "another path": [document(datasets__0__path="i01/2026/0418")],
        "another time": [document(facilities__0__timezone="Asia/Tokyo")],
    }
    for why, documents in opening.items():
        for changed in documents:
            found = preview(stated(changed, later=1))
            held = found.of(Step.HELD)
            assert [why in change.why for change in held] == [True], changed
            assert held[0].needs is Confirm.OPENING
            assert not preview(stated(changed, later=1), confirmed={Confirm.OPENING}).of(Step.HELD)


def test_data_are_not_opened_until_somebody_confirmed(stranger: User, tmp_path: Path) -> None:
    import_records(stated(DOCUMENT))
    source = Source.objects.get()
    source.trusts_flags = True
    source.save()
    # the catalogue turns its flag, and drops the date: real catalogues did
    flipped = document(datasets__0__flags={"isPublic": True}, datasets__0__available=[], datasets__0__rights=[])
    file = tmp_path / "records.json"
    file.write_bytes(text({**flipped, "harvested_at": "2026-11-20T08:00:00+01:00"}))
    out = io.StringIO()

    call_command("import_experiments", str(file), apply=True, stdout=out)

    assert "! dataset 10.5555/FACILITY-417" in out.getvalue()
    assert "run again with --confirm-opening" in out.getvalue()
    with pytest.raises(Refusal):
        access.launchable(stranger, "10.5555/FACILITY-417")

    call_command("import_experiments", str(file), apply=True, confirm_opening=True, stdout=out)

    assert access.launchable(stranger, "10.5555/FACILITY-417").title == "Lysozyme at low temperature"


def test_narrowing_is_at_once_and_a_passing_day_needs_no_word(db: None) -> None:
    import_records(
        stated(document(datasets__0__available=["2020-01-01"], datasets__0__rights=[], datasets__0__flags={}))
    )
    assert access.search_open("").total == 1

    found = import_records(stated(DOCUMENT, later=1))

    assert steps(found) == [("changed", "dataset", "10.5555/FACILITY-417")]
    assert access.search_open("").total == 0
    facts = Dataset.objects.get().facts()
    assert openness.verdict(facts, datetime(2029, 3, 4, 23, tzinfo=UTC)).open


def test_a_flag_is_read_again_at_each_harvest(db: None) -> None:
    import_records(stated(document(datasets__0__available=["2026-11-20"], datasets__0__rights=[])))
    assert access.search_open("").total == 0  # harvested after midnight, and not public
    Dataset.objects.update(harvested_at=datetime(2026, 1, 1, tzinfo=UTC))
    dataset = Dataset.objects.get()
    dataset.save()
    assert access.search_open("").total == 1  # said before the day, it says nothing of the time after

    found = import_records(stated(document(datasets__0__available=["2026-11-20"], datasets__0__rights=[]), later=1))

    assert steps(found) == []
    assert access.search_open("").total == 0


def test_a_truth_and_a_one_are_not_the_same_flag(db: None) -> None:
    import_records(
        stated(
            document(datasets__0__flags={"isPublic": 0}, datasets__0__available=["2020-01-01"], datasets__0__rights=[])
        )
    )
    assert access.search_open("").total == 1

    found = import_records(
        stated(
            document(
                datasets__0__flags={"isPublic": False}, datasets__0__available=["2020-01-01"], datasets__0__rights=[]
            ),
            later=1,
        )
    )

    assert found.of(Step.CHANGED)[0].names == ("flags",)
    assert access.search_open("").total == 0


def test_another_doi_cannot_open_data_that_one_keeps_closed(db: None) -> None:
    import_records(stated(DOCUMENT))
    for path in ("i01/2026/0417", "i01/2026", "i01/2026/0417/raw"):
        trojan = {
            "doi": "10.5555/OTHER",
            "title": "Open",
            "facility": "facility",
            "path": path,
            "available": ["2020-01-01"],
        }
        found = preview(stated(document(datasets=[*DOCUMENT["datasets"], trojan]), later=1))
        assert [change.why for change in found.changes] == ["it names data that 10.5555/FACILITY-417 keeps closed"]
        beside = {**trojan, "path": "i01/2026/04170"}
        assert steps(preview(stated(document(datasets=[*DOCUMENT["datasets"], beside]), later=1))) == [
            ("added", "dataset", "10.5555/OTHER")
        ]
    # nor give them to another team
    team = {**DOCUMENT["experiments"][0], "id": "other-team"}
    theirs = {**DOCUMENT["datasets"][0], "doi": "10.5555/OTHER", "experiment": "other-team"}
    found = preview(
        stated(
            document(experiments=[*DOCUMENT["experiments"], team], datasets=[*DOCUMENT["datasets"], theirs]), later=1
        )
    )
    assert [change.key for change in found.of(Step.HELD)] == ["10.5555/OTHER"]


def test_an_empty_or_short_file_takes_nothing_away_by_itself(db: None) -> None:
    import_records(stated(DOCUMENT))
    empty = {key: DOCUMENT[key] for key in ("format", "source", "harvested_at")}

    held = import_records(stated(empty, later=1))

    assert steps(held) == [("held", "experiment", "2026-0417"), ("held", "dataset", "10.5555/FACILITY-417")]
    assert Dataset.objects.get().withdrawn_at is None
    assert Experiment.objects.get().withdrawn_at is None

    taken = import_records(stated(empty, later=2), confirmed={Confirm.WITHDRAWALS})

    assert [step for step, _kind, _key in steps(taken)] == ["withdrawn", "withdrawn"]
    assert Dataset.objects.get().verdict(timezone.now()).reason is openness.Reason.WITHDRAWN
    assert steps(import_records(stated(empty, later=3))) == []

    # what is listed again comes back, and would open again only with a word
    back = import_records(stated(DOCUMENT, later=4))
    assert ("held", "dataset", "10.5555/FACILITY-417") in steps(back)
    import_records(stated(DOCUMENT, later=5), confirmed={Confirm.OPENING})
    assert Dataset.objects.get().withdrawn_at is None
    assert Experiment.objects.get().withdrawn_at is None


def test_people_leave_a_team_at_once_but_not_all_of_them(owner: User, db: None) -> None:
    import_records(stated(DOCUMENT))
    leader = DOCUMENT["experiments"][0]["participants"][:1]

    import_records(stated(document(experiments__0__participants=leader), later=1))
    assert Participant.objects.count() == 1

    found = import_records(stated(document(experiments__0__participants=[]), later=2))
    assert found.of(Step.HELD)[0].why == "nobody would be left"
    assert Participant.objects.count() == 1

    import_records(stated(document(experiments__0__participants=[]), later=3), confirmed={Confirm.WITHDRAWALS})
    assert Participant.objects.count() == 0


def test_many_people_leaving_at_once_wait_for_a_word(db: None) -> None:
    def teams(size: int) -> dict[str, Any]:
        people = [{"issuer": "https://login.facility.example", "subject": f"{number}"} for number in range(size)]
        return document(experiments__0__participants=people)

    import_records(stated(teams(20)))
    assert not preview(stated(teams(16), later=1)).of(Step.HELD)
    held = preview(stated(teams(15), later=1)).of(Step.HELD)
    assert held[0].why == "too many people would leave their teams in one import"


def test_scientists_left_out_stay_and_an_empty_list_waits(db: None) -> None:
    import_records(stated(DOCUMENT))

    assert steps(preview(stated(document(instruments__0__scientists=None), later=1))) == []
    assert steps(preview(stated(document(instruments__0__scientists=[]), later=1))) == [
        ("held", "scientists", "facility/i01")
    ]


def test_an_old_file_is_refused(db: None) -> None:
    import_records(stated(DOCUMENT, later=2))

    with pytest.raises(DocumentFaults, match="earlier than that of the last import"):
        import_records(stated(DOCUMENT, later=1))


def test_a_doi_of_another_source_is_not_taken_over(db: None) -> None:
    import_records(stated(DOCUMENT))

    with pytest.raises(DocumentFaults, match="another source already: User office"):
        import_records(stated(document(source__id="other", source__name="Other")))

    assert Source.objects.count() == 1


def test_a_ruling_outlives_imports(stranger: User, administrator: User) -> None:
    import_records(stated(DOCUMENT))
    dataset = Dataset.objects.get()
    dataset.ruling, dataset.ruling_reason, dataset.ruling_by = Dataset.Ruling.OPEN, "asked by the team", administrator
    dataset.save()

    import_records(stated(document(datasets__0__title="Another title"), later=1))

    assert access.launchable(stranger, "10.5555/facility-417").title == "Another title"


def test_the_cost_of_an_import_that_changes_nothing_does_not_grow(db: None) -> None:
    def many(count: int) -> dict[str, Any]:
        first = {**DOCUMENT["datasets"][0], "flags": {}}
        return document(
            datasets=[{**first, "doi": f"10.5555/{number}", "path": f"p/{number}"} for number in range(count)]
        )

    def cost(count: int) -> int:
        import_records(stated(many(count)))
        with CaptureQueriesContext(connection) as queries:
            import_records(stated(many(count)))
        return len(queries)

    assert cost(2) == cost(30)


def test_a_file_that_is_not_there_is_one_sentence(db: None) -> None:
    with pytest.raises(CommandError, match="cannot be read: No such file"):
        call_command("import_experiments", "/nonexistent/records.json")


def test_the_demos_records_show_what_they_promise(tmp_path: Path, db: None) -> None:
    issuer = "http://127.0.0.1:9"
    people = {name: factories.make_user(subject=name, issuer=issuer) for name in ("scientist", "teammate", "stranger")}
    people["instrumentscientist"] = factories.make_user(subject="instrumentscientist", issuer=issuer)
    described = demo_data.write(tmp_path / "data", issuer=issuer)

    call_command("import_experiments", str(described), apply=True, stdout=io.StringIO())
    call_command(
        "import_experiments", str(demo_data.write(tmp_path / "data", issuer=issuer)), apply=True, stdout=io.StringIO()
    )

    def outcome(name: str, doi: str) -> str:
        try:
            return access.dataset_for(people[name], doi).outcome.value
        except Refusal as refusal:
            return refusal.code

    assert {
        record.doi: (outcome("stranger", record.doi), outcome("scientist", record.doi)) for record in demo_data.SHOWN
    } == {
        "10.5291/ILL-DATA.8-02-912": ("open", "open"),
        "10.16907/d699e1f7-e822-4396-8c64-34ed405f07b7": ("open", "open"),
        "10.5442/ND000001": ("open", "open"),
        "10.22003/XFEL.EU-DATA-900390-00": ("unknown_doi", "team"),
        "10.5291/ILL-DATA.9-13-612": ("closed", "team"),
        "10.15151/ESRF-ES-2210534378": ("closed", "closed"),
        "10.15151/ESRF-DC-2493599001": ("closed", "closed"),
        "10.5291/ILL-DATA.TEST-3346": ("closed", "closed"),
        "10.5286/ISIS.E.RB1810842": ("elsewhere", "elsewhere"),
        "10.5442/NI000001": ("not_data", "not_data"),
        "10.3204/DESY-PROC-2014-05/23": ("not_data", "not_data"),
    }
    assert outcome("teammate", "10.22003/XFEL.EU-DATA-900390-00") == "team"
    assert outcome("instrumentscientist", "10.22003/XFEL.EU-DATA-900390-00") == "team"
    assert {row.dataset.minted for row in access.search_open("sample").items} >= {demo_data.CHECKED.doi}


def test_every_sample_file_says_that_it_is_one(tmp_path: Path) -> None:
    demo_data.write(tmp_path / "data", issuer="http://127.0.0.1:9")

    files = sorted((tmp_path / "data").rglob("*.nxs"))
    assert len(files) == 2 * sum(bool(record.path) for record in demo_data.SHOWN)
    for file in files:
        with h5py.File(file) as root:
            assert "SAMPLE" in root.attrs["notice"]
            data = root["entry/data"]
            assert data.attrs["NX_class"] == "NXdata"
            assert [data[name].size for name in data.attrs["axes"]] == list(data["data"].shape)
        assert "NOT the dataset" in (file.parent / "README.txt").read_text(encoding="utf-8")


def test_the_documented_table_is_the_demos() -> None:
    assert demo_data.TABLE.read_text(encoding="utf-8") == demo_data.table()
