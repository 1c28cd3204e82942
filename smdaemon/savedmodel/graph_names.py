"""How graphs name things: `node` and `node:1` are tensors, `node:output:0` within functions, `^node` is control only."""

import re

# TensorFlow's Python lets a name have `\` and any `>`, too, and then its C++ does not import the graph: such names are not given.
_ILLEGAL = re.compile(r"[^A-Za-z0-9_./-]", re.ASCII)
_LEGAL_START = re.compile(r"[A-Za-z0-9.]", re.ASCII)
# What C++ imports (IsValidNodeName in graph_constructor.cc), the names of its own nodes among it, which begin with "_".
_IMPORTED = re.compile(r"[A-Za-z0-9_.][A-Za-z0-9_./-]*(?:>[A-Za-z0-9.][A-Za-z0-9_./-]*)*", re.ASCII)


def legal_characters(part: str) -> str:
    """Part of a name, with "_" for what the name of a node cannot have."""
    return _ILLEGAL.sub("_", part)


def legal_name(name: str) -> str:
    """A name that every reader of graphs takes for a node, near to `name`."""
    legal = legal_characters(name)
    return legal if _LEGAL_START.match(legal) else f"var{legal}"


def unused(name: str, taken: set[str]) -> str:
    """`name`, with a number behind it if need be: none of `taken`, to which it is added."""
    unique = name
    count = 0
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken.add(unique)
    return unique


def can_be_imported(name: str) -> bool:
    """Whether TensorFlow's C++ imports a graph with a node of that name."""
    return _IMPORTED.fullmatch(name) is not None


def operation(tensor: str) -> str:
    """The node of `node`, `node:1`, `node:output:0` and `^node`."""
    return tensor.partition(":")[0].removeprefix("^")


def output_number(tensor: str) -> int:
    """The number of the output: 0 unless there is one after the last colon."""
    number = tensor.rpartition(":")[2]
    return int(number) if ":" in tensor and number.isascii() and number.isdigit() and len(number) < 10 else 0
