"""The recipe of the machines' image: read as it stands, without building it (that, and a boot, is in borders/)."""

import ast
import re
import subprocess
import sys

import pytest
import yaml

from deploy.processes import ROOT
from instances.cloud.machine import visa_guest
from instances.reports import WORDS

IMAGES = ROOT / "deploy" / "images"
RECIPE = (IMAGES / "build").read_text(encoding="utf-8")
GUEST = ROOT / "instances" / "cloud" / "machine" / "visa_guest.py"


def written(path: str) -> str:
    """What the recipe writes to a file of the image as a literal."""
    found = re.search(rf"^into {re.escape(path)}(?: \d+)? <<'END'\n(.*?)^END$", RECIPE, re.MULTILINE | re.DOTALL)
    assert found is not None, f"the recipe writes no {path}"
    return found[1]


@pytest.mark.parametrize("script", ["images/build", "lock"])
def test_no_script_has_what_shells_stumble_over(script: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=warning", str(ROOT / "deploy" / script)], capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", ["/usr/local/sbin/visa-desktop", "/usr/local/bin/visa-session"])
def test_a_script_of_the_image_is_plain_sh(path: str) -> None:
    done = subprocess.run(
        ["shellcheck", "--severity=warning", "--shell=sh", "-"], input=written(path), capture_output=True, text=True
    )

    assert done.returncode == 0, done.stdout


def test_an_option_nobody_knows_is_refused_before_anything_is_done() -> None:
    done = subprocess.run([str(IMAGES / "build"), "--quickly"], capture_output=True, text=True)

    assert (done.returncode, done.stdout) == (2, "")
    assert "--quickly is not an option" in done.stderr


def test_the_kernel_is_guarded_unless_the_image_is_for_emulated_tests() -> None:
    plain, emulated = re.findall(r"kernel_options\+?='([^']*)'", RECIPE)

    assert "mitigations" not in plain
    assert "mitigations=off" in emulated
    assert RECIPE.count("mitigations") == 1


def test_cloud_init_is_told_what_its_own_schema_takes() -> None:
    said = yaml.safe_load(written("/etc/cloud/cloud.cfg.d/90-visa.cfg"))

    # An empty list of users is what 22.4 calls an invalid cloud-config; without the module nobody is made.
    assert "users" not in said
    assert "users-groups" not in said["cloud_init_modules"]
    assert {"write-files", "mounts"} <= set(said["cloud_init_modules"])


def test_the_desktop_waits_for_the_program_that_fetches_its_secrets() -> None:
    desktop, guest = (written(f"/etc/systemd/system/visa-{name}.service") for name in ("desktop", "guest"))

    assert "ConditionPathExists=/etc/visa/vnc-password" in desktop
    assert "[Install]" not in desktop
    assert "ConditionPathExists=/etc/visa/guest.json" in guest
    assert "/opt/visa/visa_guest.py" in guest
    assert "WantedBy=multi-user.target" in guest
    assert "visa-desktop.service" in GUEST.read_text(encoding="utf-8")


def test_what_a_machine_runs_needs_no_newer_python_than_the_oldest_image_and_nothing_else() -> None:
    tree = ast.parse(GUEST.read_text(encoding="utf-8"), feature_version=(3, 9))

    imported = {
        name.name.split(".")[0] for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names
    }
    imported |= {
        (node.module or "").split(".")[0]
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and not node.level
    }
    assert imported <= set(sys.stdlib_module_names)


def test_a_machine_says_what_is_the_matter_in_words_that_are_translated() -> None:
    said = {words for _, words in (*visa_guest.MOUNT_WORDS, *visa_guest.CVMFS_WORDS)}
    strings = {
        node.value.partition(":")[0]
        for node in ast.walk(ast.parse(GUEST.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    }

    assert said <= set(WORDS)
    assert set(WORDS) <= strings | said


def test_python_packages_of_the_image_are_held_to_their_hashes() -> None:
    lock = (IMAGES / "jupyterlab.lock").read_text(encoding="utf-8")

    entries = [block for block in re.split(r"\n(?=[a-z0-9])", lock) if "==" in block.split("\n", 1)[0]]
    assert len(entries) > 50
    assert all("--hash=sha256:" in entry for entry in entries)
    assert "--require-hashes" in RECIPE
    assert "://" not in lock
