"""Which training step a drop is of."""

import re
from collections.abc import Mapping
from pathlib import Path

_ENDINGS = (
    ".safetensors.index.json",
    ".safetensors",
    ".npz",
    ".npy",
    ".msgpack",
    ".weights.h5",
    ".ckpt.index",
    ".index",
    ".ckpt",
)
_SHARD = re.compile(r"-[0-9]+-of-[0-9]+$")
# A metric, a release, a learning rate: none of their digits count steps. In "ab3e-41" the 3 is of a word, and the 41 stands alone.
_DECIMAL = re.compile(
    r"(?<![0-9])[0-9]++(?:(?:\.[0-9]+)++(?:e[-+]?[0-9]+)?|e\+?[0-9]+)|(?<![a-z0-9])[0-9]++e-[0-9]+", re.IGNORECASE
)

# A day, and the time behind it: at least two numbers, or the six digits of `%H%M%S`, as four may well count steps.
_DATE = re.compile(
    r"""
    (?<![0-9]) (?:19|20)[0-9]{2} ([-_]) (?:0[1-9]|1[0-2]) \1 (?:0[1-9]|[12][0-9]|3[01]) (?![0-9])
    (?:
        [-_T\ ] (?:[01][0-9]|2[0-3]) (?: [-_:.][0-5][0-9] (?:[-_:.][0-5][0-9])? | [0-5][0-9][0-5][0-9] )
        (?:\.[0-9]+)? (?: Z | [+][0-9]{2}:?[0-9]{2} )? (?![0-9])
    )?
    """,
    re.IGNORECASE | re.VERBOSE,
)

# a word for steps, no letter before it ("filter3" is no iteration), and the number behind it
_STEP = re.compile(r"(?<![a-z])(?:global[-_]?)?(?:steps?|iter(?:ation)?s?)[-_=.]*([0-9]+)", re.IGNORECASE)
_CHECKPOINT = re.compile(r"(?<![a-z])(?:ckpt|checkpoint)s?[-_=.]*([0-9]+)", re.IGNORECASE)
# "fp16", "v2" and "resnet50" end in digits too, but those belong to a word
_TRAILING = re.compile(r"(?:^|[-_=.])([0-9]+)$")

# No name of a file is longer. What a request names need be no file, and Python refuses to read thousands of digits.
_DIGITS_LIMIT = 255
_METADATA_KEYS = ("step", "global_step")


def step_of(path: Path, metadata: Mapping[str, str], root: Path | None = None) -> int | None:
    """The step of a drop, or None if nothing tells it. The first of these that there is:

    1. in the name, a number behind `step`, `global_step` or `iter` (`bert-v2-step100` is 100), the last one if there are more;
    2. in the name, a number behind `ckpt` or `checkpoint` (`ckpt-41.npz`);
    3. a number at the end of the name that stands alone (`41`, `model-41`, `model.41`; not `llama-7b`, `bert-v2`, `fp16`);
    4. for a file, the name of its directory by 1 and 2, or if it is nothing but a number (`checkpoint-500/model.safetensors`), but not
       if that is `root`, the directory that all drops are in;
    5. in the metadata, `step` or `global_step`.

    A name is taken without its format's ending, without a shard's `-00001-of-00003`, numbers with a point or an exponent
    in it (`0.54`, `1e5`) are no steps, nor is any part of a date (`2026-11-27`) and of a time behind it.
    """  # noqa: D400 - the list is the rest of the sentence
    bare = _bare(path.name)
    name = _whole_numbers(bare)
    parent = _whole_numbers(path.parent.name)
    for found in (_last(_STEP, name), _last(_CHECKPOINT, name), _last(_TRAILING, name)):
        if found is not None:
            return found
    if bare != path.name and path.parent != root:  # it has the ending of a file
        for found in (_last(_STEP, parent), _last(_CHECKPOINT, parent), _last(re.compile("^([0-9]+)$"), parent)):
            if found is not None:
                return found
    for key in _METADATA_KEYS:
        value = metadata.get(key, "").strip()
        if re.fullmatch("[0-9]{1,19}", value):
            return int(value)
    return None


def _bare(name: str) -> str:
    for ending in _ENDINGS:
        if name.endswith(ending):
            name = name.removesuffix(ending)
            break
    return _SHARD.sub("", name)


def _whole_numbers(name: str) -> str:
    """The name with a mark, which is neither letter nor digit, in place of its other numbers."""
    return _DECIMAL.sub("#", _DATE.sub("#", name))


def _last(pattern: re.Pattern[str], text: str) -> int | None:
    numbers = pattern.findall(text)
    return int(numbers[-1]) if numbers and len(numbers[-1]) <= _DIGITS_LIMIT else None
