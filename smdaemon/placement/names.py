"""Device names as TensorFlow writes them: `/job:worker/replica:0/task:1/device:GPU:0`, each part of which may be missing.

Read is what TensorFlow's `DeviceSpec` or its runtime reads: parts in any order, the old `/gpu:0` and `/CPU:*`, `*` for any. Written
is what `DeviceSpec.to_string` writes. A name that either of them would misread (a type given twice, a negative index) is refused.
"""

import re
from dataclasses import dataclass

from smdaemon.errors import DropError

LONGEST_NAME = 1000
"""Characters; a longer text is no device name. Real names have less than a hundred."""

_LARGEST_INDEX = 2**31 - 1
_SHORT_TYPES = frozenset({"CPU", "GPU", "TPU", "CUSTOM", "EPU"})
"""Types that may stand without `device:`, as in `/gpu:0`."""

_JOB = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_TYPE = re.compile(r"[A-Za-z][A-Za-z0-9_]*\Z")
_INDEX = re.compile(r"[0-9]{1,10}\Z")
_ANY = "*"


@dataclass(frozen=True)
class DeviceName:
    """A device, or with parts missing (None) all devices that have the others; `type` is in capitals for CPU and GPU."""

    job: str | None = None
    replica: int | None = None
    task: int | None = None
    type: str | None = None
    index: int | None = None

    def __str__(self) -> str:
        parts = [
            f"/{part}:{value}"
            for part, value in (("job", self.job), ("replica", self.replica), ("task", self.task))
            if value is not None
        ]
        if self.type is not None:
            parts.append(f"/device:{self.type}:{_ANY if self.index is None else self.index}")
        return "".join(parts)

    @property
    def without_host(self) -> "DeviceName":
        """The same kind of device on whatever host: type and index alone."""
        return DeviceName(type=self.type, index=self.index)

    def merged(self, other: "DeviceName") -> "DeviceName":
        """This name with the parts that `other` has taken from there, as nested `tf.device` scopes do."""
        return DeviceName(
            job=self.job if other.job is None else other.job,
            replica=self.replica if other.replica is None else other.replica,
            task=self.task if other.task is None else other.task,
            type=self.type if other.type is None else other.type,
            index=self.index if other.index is None else other.index,
        )


def parse_device(text: str) -> DeviceName:
    """The device that `text` names; an empty text names any. DropError `device-invalid` for what is no device name."""
    if len(text) > LONGEST_NAME:
        raise DropError("device-invalid", f"a text of {len(text)} characters is no device name")
    parts: dict[str, str] = {}
    for part in text.split("/"):
        if part:
            _take(part, parts, text)
    return DeviceName(
        job=parts.get("job"),
        replica=_number(parts.get("replica"), text),
        task=_number(parts.get("task"), text),
        type=parts.get("type"),
        index=_number(parts.get("index"), text),
    )


def _take(part: str, parts: dict[str, str], text: str) -> None:
    """Puts one part, `job:worker`, `device:GPU:0` or `gpu:0`, into `parts`."""
    key, *values = part.split(":")
    if key in {"job", "replica", "task"} and len(values) == 1:
        if key in parts:
            raise DropError("device-invalid", f"{text!r} names its {key} twice")
        if key == "job" and values[0] != _ANY and not _JOB.match(values[0]):
            raise DropError("device-invalid", f"{text!r} is no device name: {values[0]!r} cannot be a job")
        parts[key] = values[0]
        return
    if key == "device" and len(values) in {1, 2}:
        kind, *index = values
    elif key.upper() in _SHORT_TYPES and len(values) <= 1:
        kind, index = key.upper(), values
    else:
        raise DropError("device-invalid", f"{text!r} is no device name: {part!r} is no part of one")
    if "type" in parts:
        raise DropError("device-invalid", f"{text!r} names more than one type of device")
    if not _TYPE.match(kind):
        raise DropError("device-invalid", f"{text!r} is no device name: {kind!r} cannot be a type")
    parts["type"] = kind.upper() if kind.upper() in {"CPU", "GPU"} else kind
    parts["index"] = index[0] if index else _ANY


def _number(value: str | None, text: str) -> int | None:
    if value is None or value == _ANY:
        return None
    if not _INDEX.match(value) or int(value) > _LARGEST_INDEX:
        raise DropError("device-invalid", f"{text!r} is no device name: {value!r} is not a number from 0 to 2**31 - 1")
    return int(value)
