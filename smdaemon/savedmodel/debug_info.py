"""Debug info: for each node the stack of calls that made it, kept beside a model as `debug/saved_model_debug_info.pb`.

A node of a graph goes by `name@`, one of a function by `name@function`. TensorFlow 2.21 writes each frame and each stack once and
refers to them by ids (`frames_by_id`, `traces_by_id`, `name_to_trace_id`); older releases wrote the stacks out (`traces`), and its
loaders still take both. Format: `graph_debug_info.proto`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from farmhash import fingerprint64

from smdaemon.proto.pool import deterministic
from smdaemon.proto.tensorflow import GraphDebugInfo, SavedModel


class Frame(NamedTuple):
    """One call: the file, the line (from 1), the function it is in, and the text of the line, if that is known."""

    file: str
    line: int
    function: str = ""
    code: str = ""
    column: int = 0


def make_debug_info(traces: Mapping[str, Sequence[Frame]]) -> GraphDebugInfo:
    """The debug info of nodes, `name` or `name@function`, with the stack of each, outermost call first.

    Ids are hashes of what they stand for: the same stacks give the same message.
    """
    info = GraphDebugInfo()
    files: dict[str, int] = {}
    for node in sorted(traces):
        stack = GraphDebugInfo.StackTrace()
        for frame in traces[node]:
            index = files.setdefault(frame.file, len(files))
            stack.frame_id.append(_frame_id(info, index, frame))
        trace_id = fingerprint64(deterministic(stack))
        info.traces_by_id[trace_id].CopyFrom(stack)
        info.name_to_trace_id[node if "@" in node else f"{node}@"] = trace_id
    info.files.extend(files)
    return info


def _frame_id(info: GraphDebugInfo, file_index: int, frame: Frame) -> int:
    """The id of a frame, which is put into `info`."""
    made = GraphDebugInfo.FileLineCol(
        file_index=file_index, line=frame.line, col=frame.column, func=frame.function, code=frame.code
    )
    # hashed with the file's name, not its number: the id does not depend on what else there is
    frame_id: int = fingerprint64(frame.file.encode() + b"\0" + deterministic(made))
    info.frames_by_id[frame_id].CopyFrom(made)
    return frame_id


def prune_debug_info(info: GraphDebugInfo | bytes, model: SavedModel) -> GraphDebugInfo:
    """What in `info` concerns nodes of `model`, in the layout it has, with only the frames and files that it needs.

    Raises DecodeError for bytes that are no GraphDebugInfo. The stacks hold absolute paths of the machine that made the graph.
    """
    if isinstance(info, bytes):
        info = GraphDebugInfo.FromString(info)
    nodes = _Nodes(model)
    pruned = GraphDebugInfo()
    for name, stack in info.traces.items():
        if nodes.have(name):
            pruned.traces[name].CopyFrom(stack)
    for name, trace_id in info.name_to_trace_id.items():
        if nodes.have(name) and trace_id in info.traces_by_id:
            pruned.name_to_trace_id[name] = trace_id
            pruned.traces_by_id[trace_id].CopyFrom(info.traces_by_id[trace_id])
    for stack in pruned.traces_by_id.values():
        for frame_id in stack.frame_id:
            if frame_id in info.frames_by_id:
                pruned.frames_by_id[frame_id].CopyFrom(info.frames_by_id[frame_id])
    _keep_files(info, pruned)
    return pruned


class _Nodes:
    """The nodes of a model, as debug info names them; a graph's own nodes are found without the `@`, too."""

    def __init__(self, model: SavedModel) -> None:
        self._names: set[str] = set()
        self._modules: set[str] = set()
        for meta_graph in model.meta_graphs:
            for node in meta_graph.graph_def.node:
                self._names |= {node.name, f"{node.name}@"}
            for function in meta_graph.graph_def.library.function:
                for node in function.node_def:
                    name = f"{node.name}@{function.signature.name}"
                    self._names.add(name)
                    if node.op == "XlaCallModule":
                        self._modules.add(name)

    def have(self, name: str) -> bool:
        """Whether this is a node, or an operation of a module that a node calls: `node/operation@function`."""
        if name in self._names or not self._modules:
            return name in self._names
        inner, _, function = name.partition("@")
        return f"{inner.partition('/')[0]}@{function}" in self._modules


def _keep_files(info: GraphDebugInfo, pruned: GraphDebugInfo) -> None:
    """Renumbers the files of the frames in `pruned`, which are numbered as in `info`."""
    numbers: dict[int, int] = {}
    for frame in _frames(pruned):
        if not 0 <= frame.file_index < len(info.files):
            frame.ClearField("file_index")
            continue
        number = numbers.setdefault(frame.file_index, len(numbers))
        if number == len(pruned.files):
            pruned.files.append(info.files[frame.file_index])
        frame.file_index = number


def _frames(info: GraphDebugInfo) -> Iterable[GraphDebugInfo.FileLineCol]:
    """All frames, in an order that the content alone decides."""
    for _, frame in sorted(info.frames_by_id.items()):
        yield frame
    for stacks in (sorted(info.traces_by_id.items()), sorted(info.traces.items())):
        for _, stack in stacks:
            yield from stack.file_line_cols
