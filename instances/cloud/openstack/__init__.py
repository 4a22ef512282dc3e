"""OpenStack. This package, and nothing else, knows openstacksdk."""

from instances.cloud.openstack.verbs import OpenStackCloud

__all__ = ["OpenStackCloud"]
