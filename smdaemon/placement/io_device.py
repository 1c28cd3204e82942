"""`experimental_io_device`: the device whose host reads and writes the files of a checkpoint."""

from smdaemon.errors import DropError
from smdaemon.placement.names import parse_device


def validate_io_device(text: str) -> None:
    """Checks the device that is to touch the file system; an empty text leaves the choice open.

    TensorFlow places its save and restore ops there and nothing else: the files are the same whatever it says. Those ops run on
    CPUs alone, so a device of another type is refused, with DropError `device-invalid`, as is what is no device name. Any host may be
    named: which host writes is decided by where smdaemon runs.
    """
    device = parse_device(text)
    if device.type not in {None, "CPU"}:
        raise DropError(
            "device-invalid",
            f"{text!r} cannot touch the file system: TensorFlow saves and restores on CPUs, not on {device.type}",
            remedy="name the host alone, as in '/job:localhost', or its CPU",
        )
