"""The sample environment is complete, says nothing that is not read, and is one the platform starts with."""

import re

import pytest

from deploy.processes import ROOT
from visa import environment

SAMPLE = (ROOT / "deploy" / "env.sample").read_text(encoding="utf-8")
SAID = dict(re.findall(r"^(VISA_[A-Z_]+)=(.*)$", SAMPLE, re.MULTILINE))


def read_names() -> set[str]:
    """The names visa/environment.py asks for, a provider's under the sample's provider; those of tests apart."""
    code = (ROOT / "visa" / "environment.py").read_text(encoding="utf-8")
    names = set(re.findall(r'"(VISA_(?!TEST_)[A-Z_]+)"', code))
    provider = {f"VISA_OIDC_UMBRELLAID_{suffix}" for suffix in re.findall(r'"\{prefix\}_([A-Z_]+)"', code)}
    return names | provider


def test_the_sample_names_every_variable_and_no_other() -> None:
    assert set(SAID) == read_names()


@pytest.mark.parametrize("process", environment.Process)
def test_every_process_starts_with_the_sample(process: environment.Process) -> None:
    read = environment.read(SAID | {"VISA_PROCESS": process})

    assert read.process is process
    assert read.site.secure


def test_a_process_with_nothing_is_told_all_that_is_missing_at_once() -> None:
    with pytest.raises(environment.EnvironmentFaults) as refusal:
        environment.read({})

    told = " ".join(refusal.value.faults)
    for name in ("VISA_PROCESS", "VISA_SITE_URL", "VISA_DATABASE_HOST", "VISA_REDIS_URL", "VISA_MACHINE_KEYS"):
        assert name in told
