#!/usr/bin/python3
"""Puts into this OpenStack what the platform expects to find in one.

    seed.py catalog            service users, services and endpoints
    seed.py project IMAGE      project, user, networks, flavours, image; prints the application credential's id

Every step looks before it creates, so both can run again at any time. The administrator's credential comes from the
OS_* variables. Runs with the system's Python and Debian's openstacksdk, which `up` installs.
"""

import os
import sys
from pathlib import Path

import openstack

PASSWORD = os.environ["OS_PASSWORD"]
ADDRESS = os.environ["VISA_ADDRESS"]
SUBNET = os.environ["VISA_SUBNET"]
GATEWAY = os.environ["VISA_GATEWAY"]
OWN_SUBNET = "10.78.0.0/20"

SERVICES = {  # user: (service type, URL)
    "glance": ("image", f"http://{ADDRESS}:9292"),
    "placement": ("placement", f"http://{ADDRESS}:8778"),
    "nova": ("compute", f"http://{ADDRESS}:8774/v2.1"),
    "neutron": ("network", f"http://{ADDRESS}:9696"),
}
FLAVOURS = {  # name: (vCPUs, MiB, GiB, extra specs)
    "visa.small": (1, 1024, 4, {}),
    "visa.medium": (2, 2048, 8, {}),
    "visa.gpu": (2, 2048, 8, {"resources:CUSTOM_GPU": "1"}),
}
#: what may come in, and only from the host, where the gateway runs
OPEN_PORTS = {("icmp", None), ("tcp", 5901)}
#: what the platform's credential may call: what instances/cloud/openstack calls, and nothing that could change an
#: image, a network, a volume or another credential. With volumes: GET /v3/volumes/detail, DELETE /v3/volumes/* as well.
ACCESS_RULES = [
    ("compute", "GET", "/v2.1/servers"),
    ("compute", "GET", "/v2.1/servers/**"),
    ("compute", "POST", "/v2.1/servers"),
    ("compute", "POST", "/v2.1/servers/*/action"),
    ("compute", "DELETE", "/v2.1/servers/*"),
    ("compute", "GET", "/v2.1/flavors"),
    ("compute", "GET", "/v2.1/flavors/**"),
    ("image", "GET", "/v2/images"),
    ("image", "GET", "/v2/images/*"),
    ("network", "GET", "/v2.0/networks"),
    ("network", "GET", "/v2.0/networks/*"),
    ("network", "GET", "/v2.0/ports"),
    ("network", "GET", "/v2.0/ports/*"),
    ("network", "POST", "/v2.0/ports"),
    ("network", "DELETE", "/v2.0/ports/*"),
]

cloud = openstack.connect()


def user(name, project, roles):
    """A user, with its project, holding these roles there."""
    found = cloud.identity.find_project(project) or cloud.identity.create_project(name=project, domain_id="default")
    if not cloud.identity.find_user(name):
        cloud.identity.create_user(name=name, password=PASSWORD, domain_id="default", default_project_id=found.id)
    for role in roles:
        cloud.grant_role(role, user=name, project=found.id)
    return found


def catalog():
    if not cloud.identity.find_role("service"):
        cloud.identity.create_role(name="service")
    for name, (kind, url) in SERVICES.items():
        user(name, "service", ["admin", "service"])
        service = cloud.identity.find_service(name) or cloud.identity.create_service(name=name, type=kind)
        there = {endpoint.interface for endpoint in cloud.identity.endpoints(service_id=service.id)}
        for interface in {"public", "internal", "admin"} - there:
            cloud.identity.create_endpoint(service_id=service.id, interface=interface, url=url, region_id="RegionOne")


def networks(project):
    """`visa`, which is somebody else's and shared, as a site's provider network is; and `visa-own`, the project's."""
    found = cloud.network.find_network("visa") or cloud.network.create_network(
        name="visa", is_shared=True, provider_network_type="flat", provider_physical_network="visa"
    )
    if not cloud.network.find_subnet("visa"):
        cloud.network.create_subnet(name="visa", network_id=found.id, ip_version=4, cidr=SUBNET, gateway_ip=GATEWAY)
    # There the project may choose its ports' addresses. It leads nowhere, so that no guest needs a second way out.
    own = cloud.network.find_network("visa-own") or cloud.network.create_network(
        name="visa-own", project_id=project.id, provider_network_type="local"
    )
    if not cloud.network.find_subnet("visa-own"):
        cloud.network.create_subnet(
            name="visa-own", network_id=own.id, project_id=project.id, ip_version=4, cidr=OWN_SUBNET,
            gateway_ip=None, is_dhcp_enabled=False,
        )  # fmt: skip


def flavours():
    for name, (vcpus, ram, disk, extra) in FLAVOURS.items():
        if not cloud.compute.find_flavor(name):
            flavour = cloud.compute.create_flavor(name=name, vcpus=vcpus, ram=ram, disk=disk)
            cloud.compute.create_flavor_extra_specs(flavour, extra)


def image(path):
    """The desktop image, uploaded anew whenever its file has changed."""
    stamp = f"{path.stat().st_size}-{path.stat().st_mtime_ns}"
    old = list(cloud.image.images(name="visa-desktop"))
    if any(found.properties.get("visa_build") == stamp for found in old):
        return
    cloud.create_image(
        "visa-desktop", filename=str(path), disk_format="qcow2", container_format="bare",
        visibility="public", allow_duplicates=True, min_disk=3, min_ram=512, wait=True, timeout=600,
        visa_build=stamp, hw_disk_bus="virtio", hw_vif_model="virtio",
        hw_cdrom_bus="scsi", hw_scsi_model="virtio-scsi",  # the config drive's
        os_distro="debian", os_version="12",
    )  # fmt: skip
    for stale in old:
        cloud.image.delete_image(stale)


def doors(project):
    """The project's default security group: open to the host alone. Guests do not reach each other."""
    (group,) = cloud.network.security_groups(project_id=project.id, name="default")
    there = set()
    for rule in cloud.network.security_group_rules(security_group_id=group.id, direction="ingress"):
        if rule.remote_ip_prefix == f"{GATEWAY}/32":
            there.add((rule.protocol, rule.port_range_min))
        else:
            cloud.network.delete_security_group_rule(rule)
    for protocol, port in OPEN_PORTS - there:
        cloud.network.create_security_group_rule(
            security_group_id=group.id, direction="ingress", ether_type="IPv4", protocol=protocol,
            port_range_min=port, port_range_max=port, remote_ip_prefix=f"{GATEWAY}/32",
        )  # fmt: skip


def credential():
    """The id of the platform's application credential. Only its owner can make one."""
    own = openstack.connect(
        auth_url=os.environ["OS_AUTH_URL"], region_name="RegionOne", username="visa", password=PASSWORD,
        project_name="visa", user_domain_name="Default", project_domain_name="Default",
        load_envvars=False, load_yaml_config=False,
    )  # fmt: skip
    # Debian's openstacksdk knows no access rules and would leave them out without a word: hence Keystone's API itself.
    base = f"/users/{own.current_user_id}/application_credentials"
    for found in own.identity.get(base, params={"name": "visa"}).json()["application_credentials"]:
        rules = {(rule["service"], rule["method"], rule["path"]) for rule in found.get("access_rules") or []}
        if rules == set(ACCESS_RULES):
            return found["id"]
        openstack.exceptions.raise_from_response(own.identity.delete(f"{base}/{found['id']}"))
    rules = [{"service": service, "method": method, "path": path} for service, method, path in ACCESS_RULES]
    wish = {"name": "visa", "secret": PASSWORD, "access_rules": rules}
    answer = own.identity.post(base, json={"application_credential": wish})
    openstack.exceptions.raise_from_response(answer)
    return answer.json()["application_credential"]["id"]


def project(path):
    visa = user("visa", "visa", ["member"])
    networks(visa)
    flavours()
    image(Path(path))
    doors(visa)
    print(credential())


if __name__ == "__main__":
    {"catalog": catalog, "project": project}[sys.argv[1]](*sys.argv[2:])
