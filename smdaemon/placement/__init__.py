"""Which devices a SavedModel names, and what becomes of them: device names, policies, and all places where they stand.

Uses no TensorFlow, reads and writes no file: it changes messages in place.
"""

from smdaemon.placement.default_attrs import strip_default_attrs
from smdaemon.placement.io_device import validate_io_device
from smdaemon.placement.names import DeviceName, parse_device
from smdaemon.placement.place import Placed, count_colocations, count_devices, device_places, place
from smdaemon.placement.policy import KEEP, SOFT, STRIP, Policy, parse_policy

__all__ = [
    "KEEP",
    "SOFT",
    "STRIP",
    "DeviceName",
    "Placed",
    "Policy",
    "count_colocations",
    "count_devices",
    "device_places",
    "parse_device",
    "parse_policy",
    "place",
    "strip_default_attrs",
    "validate_io_device",
]
