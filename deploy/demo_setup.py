"""Database, pages' parts, offers, sample data and records of a demo: `python -m deploy.demo_setup`, one Django process.

Can be run any number of times: what an administrator changed in the meantime stays.
"""

import argparse
import os
from pathlib import Path

import django

SMALL = {"cores": 1, "memory_mib": 1024, "disk_gib": 4, "gpus": 0}
MEDIUM = {"cores": 2, "memory_mib": 2048, "disk_gib": 8, "gpus": 0}
GPU = {"cores": 2, "memory_mib": 2048, "disk_gib": 8, "gpus": 1}


def offers() -> None:
    """Three sizes, one image, and how much everybody may have; named as in deploy/openstack."""
    from instances.models import Image
    from quotas.models import Flavour, Limit

    sizes = [
        ("small", "Small", "To look at data and plot them", SMALL),
        ("medium", "Medium", "To reduce and fit", MEDIUM),
        ("gpu", "Medium with GPU", "To train and reconstruct", GPU),
    ]
    for position, (slug, name, words, size) in enumerate(sizes):
        said = {"name": name, "description": words, "cloud_name": f"visa.{slug}", "position": position, **size}
        Flavour.objects.get_or_create(slug=slug, defaults=said)
    Image.objects.get_or_create(
        slug="analysis",
        defaults={
            "name": "Analysis desktop",
            "description": "A desktop with a terminal, the facility's software and your data",
            "cloud_name": "visa-desktop",
        },
    )
    everyone = {"machines": 3, "cores": 4, "memory_mib": 4096, "gpus": 1}
    Limit.objects.get_or_create(kind=Limit.Kind.EVERYONE, key="", defaults=everyone)
    more = {"machines": 6, "cores": 8, "memory_mib": 8192, "gpus": 1}
    Limit.objects.get_or_create(kind=Limit.Kind.ROLE, key="instrument_scientist", defaults=more)


def records(data: Path, issuer: str) -> None:
    """Sample files below `data`, and the records that name them."""
    from django.core.management import call_command

    from deploy import demo_data

    described = demo_data.write(data, issuer=issuer)
    call_command("import_experiments", str(described), apply=True, verbosity=0)


def main() -> None:
    parser = argparse.ArgumentParser(prog="deploy.demo_setup", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="where the sample files go")
    asked = parser.parse_args()
    django.setup()
    from django.core.management import call_command

    call_command("migrate", interactive=False, verbosity=0)
    call_command("collectstatic", interactive=False, verbosity=0)
    offers()
    records(asked.data, os.environ["VISA_OIDC_DEMO_ISSUER"])


if __name__ == "__main__":
    main()
