"""What a model's graphs tell of the machine and the release that made them, and how it is taken out.

Devices: their names, the places where they stand, and policies for what becomes of them. Attrs that only repeat a default, and so
keep older releases from loading a model. Messages are changed in place; no file is read or written but a table of defaults.
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
