"""What becomes of a model's devices.

- `keep`: nothing changes.
- `strip`: no device is left, and no node must be placed beside another.
- `soft`: job, replica and task are dropped, type and index stay: the model runs on any one host that has such devices.
- `remap:PATTERN=DEVICE[,PATTERN=DEVICE...]`: a device that a pattern matches becomes DEVICE as a whole; the first pattern that
  matches decides; an empty DEVICE clears. A pattern is a partial device name; it matches a device that has all its parts, with
  equal values, where `*` and `?` stand for any characters or one: `/job:ps*`, `/task:1/device:GPU:*`. A part that a device leaves
  open is matched by `*` alone. The pattern `*` matches every device.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Literal

from smdaemon.errors import DropError
from smdaemon.placement.names import LONGEST_NAME, DeviceName, parse_device

Kind = Literal["keep", "strip", "soft", "remap"]

_MOST_RULES = 1000


@dataclass(frozen=True)
class Pattern:
    """Which devices a rule is for: by part, the glob that its value must match; `text` is the pattern as it was given."""

    text: str
    parts: Mapping[str, str]

    def matches(self, device: DeviceName) -> bool:
        """Whether `device` has every part of the pattern."""
        return all(_part_matches(getattr(device, part), glob, part, device) for part, glob in self.parts.items())


def _part_matches(value: str | int | None, glob: str, part: str, device: DeviceName) -> bool:
    if value is None:
        # `/device:GPU:*` asks for the type alone: an index left open is any index
        return glob == "*" and part == "index" and device.type is not None
    return fnmatchcase(str(value), glob)


@dataclass(frozen=True)
class Policy:
    """What becomes of devices; `rules` are those of `remap`, in order."""

    kind: Kind
    rules: tuple[tuple[Pattern, str], ...] = ()

    def __str__(self) -> str:
        if self.kind != "remap":
            return self.kind
        return "remap:" + ",".join(f"{pattern.text}={device}" for pattern, device in self.rules)

    def placed(self, device: str) -> str:
        """What becomes of `device`, a device name or empty; DropError `device-invalid` where `soft` or `remap` cannot read it."""
        return self._place(device) if device else device

    @cached_property
    def _place(self) -> Callable[[str], str]:
        match self.kind:
            case "keep":
                return str
            case "strip":
                return _nowhere
            case "soft":
                return _anywhere
            case "remap":
                return self._remapped

    def _remapped(self, device: str) -> str:
        name = parse_device(device)
        return next((target for pattern, target in self.rules if pattern.matches(name)), device)


def _nowhere(_device: str) -> str:
    return ""


def _anywhere(device: str) -> str:
    return str(parse_device(device).without_host)


KEEP = Policy("keep")
STRIP = Policy("strip")
SOFT = Policy("soft")


def parse_policy(text: str) -> Policy:
    """The policy that `text` asks for; DropError `device-invalid` for what is none, see above."""
    for policy in (KEEP, STRIP, SOFT):
        if text == policy.kind:
            return policy
    kind, separator, rules = text.partition(":")
    if kind != "remap" or not separator:
        raise DropError(
            "device-invalid",
            f"{text[:LONGEST_NAME]!r} is no device policy; there are keep, strip, soft and remap:PATTERN=DEVICE",
        )
    return Policy("remap", tuple(_rules(rules.split(","))))


def _rules(texts: list[str]) -> Iterable[tuple[Pattern, str]]:
    if len(texts) > _MOST_RULES:
        raise DropError("device-invalid", f"{len(texts)} device rules are more than {_MOST_RULES}")
    for text in texts:
        pattern, separator, device = text.partition("=")
        if not separator or not pattern:
            raise DropError("device-invalid", f"{text!r} is no device rule of the form PATTERN=DEVICE")
        yield _pattern(pattern), str(parse_device(device))


def _pattern(text: str) -> Pattern:
    """The pattern as globs by part."""
    if text == "*":
        return Pattern(text, {})
    if len(text) > LONGEST_NAME:
        raise DropError("device-invalid", f"a pattern of {len(text)} characters matches no device")
    parts: dict[str, str] = {}
    for part in filter(None, text.split("/")):
        found = _globs(part)
        if found is None or parts.keys() & found.keys():
            raise DropError("device-invalid", f"{text!r} is no pattern of device names: {part!r} cannot stand there")
        parts |= found
    if not parts:
        raise DropError("device-invalid", f"{text!r} is no pattern of device names; '*' matches every device")
    return Pattern(text, parts)


def _globs(part: str) -> dict[str, str] | None:
    """One part of a pattern, as in `job:ps*`, `device:GPU:*` or `gpu:0`; None for what is no part."""
    key, *values = part.split(":")
    if "" in values:
        return None
    if key in {"job", "replica", "task"} and len(values) == 1:
        return {key: values[0]}
    if key == "device" and len(values) in {1, 2}:
        return dict(zip(("type", "index"), (_type(values[0]), *values[1:]), strict=False))
    if key.upper() in {"CPU", "GPU", "TPU"} and len(values) <= 1:
        return dict(zip(("type", "index"), (key.upper(), *values), strict=False))
    return None


def _type(kind: str) -> str:
    return kind.upper() if kind.upper() in {"CPU", "GPU"} else kind
