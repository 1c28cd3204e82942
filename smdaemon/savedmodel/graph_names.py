"""How graphs name things: `node` and `node:1` are tensors, `node:output:0` within functions, `^node` is control only."""


def operation(tensor: str) -> str:
    """The node of `node`, `node:1`, `node:output:0` and `^node`."""
    return tensor.partition(":")[0].removeprefix("^")


def output_number(tensor: str) -> int:
    """The number of the output: 0 unless there is one after the last colon."""
    number = tensor.rpartition(":")[2]
    return int(number) if ":" in tensor and number.isascii() and number.isdigit() and len(number) < 10 else 0
