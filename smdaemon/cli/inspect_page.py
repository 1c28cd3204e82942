"""The page of `smdaemon inspect`, apart from its command line: the parser is not needed to show one directory (see main.py)."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from smdaemon.cli import output
from smdaemon.errors import fault
from smdaemon.savedmodel.summary import MetaGraphSummary, Summary, TensorSummary, summarize


def show(saved_model: Path, *, as_json: bool = False) -> None:
    """Print what the SavedModel holds, for people or as JSON."""
    try:
        summary = summarize(saved_model)
    except OSError as error:
        raise fault(error, "reading the SavedModel") from error
    if as_json:
        output.print_json(asdict(summary))
        return
    for line in _lines(summary):
        print(output.visible(line))


def _lines(summary: Summary) -> list[str]:
    """The page, line by line. Plain text: a table of 100,000 variables must not wait for a layout."""
    lines: list[str] = []
    for meta_graph in summary.meta_graphs:
        lines += _meta_graph(meta_graph)
    lines.append(f"variables: {len(summary.variables)}, {output.human_bytes(summary.variable_bytes)}")
    width = max((len(variable.name) for variable in summary.variables), default=0)
    for variable in summary.variables:
        shape = _shape(variable.shape)
        lines.append(f"  {variable.name:<{width}}  {variable.dtype:<10} {shape}  {output.human_bytes(variable.bytes)}")
    lines.append(f"files: {len(summary.files)}, {output.human_bytes(summary.total_bytes)}")
    lines += [f"  {name}  {output.human_bytes(size)}" for name, size in summary.files.items()]
    if summary.fingerprint is not None:
        lines.append(f"fingerprint: {summary.fingerprint.uuid} (checksum {summary.fingerprint.saved_model_checksum})")
    return lines


def _meta_graph(meta_graph: MetaGraphSummary) -> list[str]:
    lines = [f"meta graph: {', '.join(meta_graph.tags) or '(no tags)'}"]
    if meta_graph.tensorflow_version:
        lines.append(f"  written by TensorFlow {meta_graph.tensorflow_version}")
    lines.append(f"  {meta_graph.nodes} nodes, {meta_graph.functions} functions")
    for key, signature in meta_graph.signatures.items():
        lines.append(f"  signature {key} ({signature.method})")
        lines += [f"    input  {name}: {_tensor(tensor)}" for name, tensor in signature.inputs.items()]
        lines += [f"    output {name}: {_tensor(tensor)}" for name, tensor in signature.outputs.items()]
    if meta_graph.ops:
        lines.append(f"  ops: {', '.join(meta_graph.ops)}")
    for function in meta_graph.concrete_functions:
        lines.append(f"  function {function.name}")
        for call in function.calls:
            lines.append(f"    as {call.function}")
            lines += [f"      argument {_argument(value)}" for value in call.arguments]
            lines += [f"      argument {name}={_argument(value)}" for name, value in call.named.items()]
    for place, devices in meta_graph.devices.items():
        lines += [f"  device {device}: {count} in {place}" for device, count in devices.items()]
    if meta_graph.colocations:
        lines.append(f"  {meta_graph.colocations} nodes are bound to the place of another")
    return lines


def _tensor(tensor: TensorSummary) -> str:
    return f"{tensor.dtype} {_shape(tensor.shape)} from {tensor.tensor}"


def _argument(value: Any) -> str:
    """An argument of a function: `x: float32 (?, 2)` for a tensor, any other as Python writes it."""
    if isinstance(value, dict):
        if value.keys() == {"name", "dtype", "shape"}:
            name = f"{value['name']}: " if value["name"] else ""
            return f"{name}{value['dtype']} {_shape(value['shape'])}"
        return f"{{{', '.join(f'{key}: {_argument(item)}' for key, item in value.items())}}}"
    if isinstance(value, list):
        return f"[{', '.join(_argument(item) for item in value)}]"
    return repr(value)


def _shape(shape: Sequence[int | None] | None) -> str:
    """A shape as people write it: `?` for a dimension or a rank that is not known."""
    if shape is None:
        return "(?)"
    return f"({', '.join('?' if dimension is None else str(dimension) for dimension in shape)})"
