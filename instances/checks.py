"""Misconfiguration of the machines' part, as system checks with an id and a hint."""

from collections.abc import Sequence
from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from instances import software
from visa.environment import CloudKind


@register()
def memory_cloud_is_for_tests(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E001: a cloud without machines would accept every launch of a site and never give a desktop."""
    cloud = settings.ENVIRONMENT.cloud
    if cloud is None or cloud.kind is not CloudKind.MEMORY or settings.DEBUG:
        return []
    if cloud.environment.startswith("test"):
        return []
    return [
        Error(
            "The memory cloud has no machines and is for tests only.",
            hint="Set VISA_CLOUD_KIND to openstack or local; or name the environment test-… (VISA_CLOUD_ENVIRONMENT).",
            id="instances.E001",
        )
    ]


@register()
def test_switches_are_for_tests(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E002: a site that stops at checkpoints, or whose quiet period is shortened, makes machines twice or never."""
    environment = settings.ENVIRONMENT
    if not environment.tests.checkpoints and environment.tests.scale == 1.0:
        return []
    if settings.DEBUG or (environment.cloud is not None and environment.cloud.environment.startswith("test")):
        return []
    return [
        Error(
            "Checkpoints and shortened times are for tests only.",
            hint="Unset VISA_TEST_CHECKPOINTS and VISA_TEST_SCALE.",
            id="instances.E002",
        )
    ]


@register()
def machines_can_be_told_about_the_software(
    app_configs: Sequence[AppConfig] | None, **kwargs: Any
) -> list[CheckMessage]:
    """E003: what the CVMFS client would misread would otherwise fail each launch, or pin nothing and say nothing."""
    try:
        told = software.of_site(settings.ENVIRONMENT.data)
        if told is not None:
            software.files(told)
    except software.SoftwareFault as fault:
        return [
            Error(
                f"The CVMFS settings cannot be used: {fault}.",
                hint="Correct the VISA_CVMFS_ variables; deploy/README.md says what each takes.",
                id="instances.E003",
            )
        ]
    return []


@register()
def machines_reach_the_site_by_tls(app_configs: Sequence[AppConfig] | None, **kwargs: Any) -> list[CheckMessage]:
    """E004: over plain http, whoever is on the machines' network could read their secrets as they fetch them."""
    environment = settings.ENVIRONMENT
    url, host = environment.guests.url, environment.guests.host
    if url.startswith("https://") or environment.site.demo or settings.DEBUG:
        return []
    if host in {"localhost", "::1"} or host.startswith("127."):
        return []
    if environment.cloud is None or environment.cloud.environment.startswith("test"):
        return []
    return [
        Error(
            f"Machines would fetch their secrets from {url} without encryption.",
            hint="Set VISA_GUEST_URL to an https address that machines reach, and VISA_GUEST_CA to its authority.",
            id="instances.E004",
        )
    ]
