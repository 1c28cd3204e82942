"""What a request does to the tensors of a source: choose some, rename some."""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import translate

from smdaemon.errors import DropError
from smdaemon.sources.opened import check_name
from smdaemon.tensorbundle.tensors import Tensor


def select(
    tensors: Mapping[str, Tensor],
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rename: Mapping[str, str] | None = None,
) -> dict[str, Tensor]:
    """The chosen tensors under their final names, in the order of the source.

    `include` and `exclude` are glob patterns over whole names, case and all; `*` crosses `/` and `.` too. No `include` means
    all; `exclude` wins. `rename` maps names of the source, not patterns. Raises DropError: `request-invalid` for a pattern or
    a name that fits nothing, `name-clash` for two tensors of one name, `name-invalid` for a new name that is none.
    """
    included = _matched(tensors, include, "include") if include else set(tensors)
    chosen = included - _matched(tensors, exclude, "exclude")
    rename = rename or {}
    for name, new_name in rename.items():
        if name not in chosen:
            reason = "left out by include or exclude" if name in tensors else "not in the source"
            raise DropError("request-invalid", f"rename has {name!r}, which is {reason}")
        check_name(new_name)
    selected: dict[str, Tensor] = {}
    origins: dict[str, str] = {}
    for name, tensor in tensors.items():
        if name not in chosen:
            continue
        new_name = rename.get(name, name)
        if new_name in selected:
            raise DropError("name-clash", f"{origins[new_name]!r} and {name!r} would both be named {new_name!r}")
        selected[new_name] = tensor
        origins[new_name] = name
    return selected


def _matched(names: Iterable[str], patterns: Sequence[str], what: str) -> set[str]:
    matched: set[str] = set()
    for pattern in patterns:
        fits: Callable[[str], object] = re.compile(translate(pattern)).match
        hits = {name for name in names if fits(name)}
        if not hits:
            raise DropError("request-invalid", f"the pattern {pattern!r} of {what} matches no tensor")
        matched |= hits
    return matched
