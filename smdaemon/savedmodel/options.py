"""SaveOptions: the options of `tf.saved_model.save`, under TensorFlow's names and with its defaults.

Each does what its name says. What cannot be done is refused with DropError `option-refused`, and never passed over.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Any, NoReturn

from smdaemon.errors import DropError
from smdaemon.placement import validate_io_device

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import GraphDef
    from smdaemon.savedmodel.sharding import ShardingCallback


class VariablePolicy(Enum):
    """Whether a model remembers the devices of its variables."""

    NONE = None
    SAVE_VARIABLE_DEVICES = "save_variable_devices"
    EXPAND_DISTRIBUTED_VARIABLES = "expand_distributed_variables"

    @classmethod
    def of(cls, value: "VariablePolicy | str | None") -> "VariablePolicy":
        """The policy of that name in any case; DropError `option-refused` where there is none."""
        if isinstance(value, cls):
            return value
        try:
            return cls(value.lower() if isinstance(value, str) else value)
        except ValueError:
            refuse("experimental_variable_policy", f"{value!r} is none of {[policy.value for policy in cls]}")


@dataclass(frozen=True)
class SaveOptions:
    """How an object tree is saved.

    namespace_whitelist: the namespaces of ops (`Addons` in `Addons>Beam`) that the model may use; None: any.
    save_debug_info: write where the nodes of the functions were made (`GraphFunction.traces`).
    function_aliases: other names for functions of the model, by which tools find them.
    experimental_debug_stripper: make every Assert a NoOp that still waits for what it waited for.
    experimental_io_device: the device that TensorFlow is to save and restore files on; ops, not files, depend on it.
    experimental_variable_policy: whether to keep the devices of variables; there are no distributed ones to expand.
    experimental_custom_gradients: keep the functions that are gradients of others.
    experimental_image_format: refused: the format is not public, and TensorFlow's own release refuses it.
    experimental_skip_saver: leave out the ops that restore variables in a session; `tf.saved_model.load` does without them.
    experimental_sharding_callback: which values lie in which data file, see sharding.py.
    extra_tags: tags besides `serve`.
    """

    namespace_whitelist: Sequence[str] | None = None
    save_debug_info: bool = False
    function_aliases: Mapping[str, Any] = field(default_factory=dict)
    experimental_debug_stripper: bool = False
    experimental_io_device: str | None = None
    experimental_variable_policy: VariablePolicy | str | None = None
    experimental_custom_gradients: bool = True
    experimental_image_format: bool = False
    experimental_skip_saver: bool = False
    experimental_sharding_callback: "ShardingCallback | None" = None
    extra_tags: Sequence[str] = ()

    def __post_init__(self) -> None:
        VariablePolicy.of(self.experimental_variable_policy)
        if isinstance(self.namespace_whitelist, str):
            refuse("namespace_whitelist", f"{self.namespace_whitelist!r} is a string, not a list of them")
        if isinstance(self.extra_tags, str):
            refuse("extra_tags", f"{self.extra_tags!r} is a string, not a list of them")
        if self.experimental_image_format:
            refuse("experimental_image_format", "the format is not public, no released TensorFlow writes it")
        if self.experimental_sharding_callback is not None and not callable(self.experimental_sharding_callback):
            refuse("experimental_sharding_callback", f"{self.experimental_sharding_callback!r} cannot be called")
        if self.experimental_io_device:
            validate_io_device(self.experimental_io_device)

    @property
    def saves_devices(self) -> bool:
        """Whether variables keep their devices."""
        return VariablePolicy.of(self.experimental_variable_policy) is not VariablePolicy.NONE


def refuse(option: str, why: str) -> NoReturn:
    """Raise DropError `option-refused`."""
    raise DropError("option-refused", f"{option} cannot be followed: {why}")


def check_namespaces(graph: "GraphDef", allowed: Sequence[str] | None) -> None:
    """DropError `option-refused` where a node is of an op whose namespace is not allowed; ops without one always are."""
    if allowed is None:
        return
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    strays = sorted({node.op for node in nodes if ">" in node.op and node.op.partition(">")[0] not in allowed})
    if strays:
        refuse("namespace_whitelist", f"the model uses {', '.join(strays)}, and only {sorted(allowed)} are allowed")


def strip_debug_nodes(graph: "GraphDef") -> int:
    """Makes every Assert of the graph and of its functions a NoOp with the same inputs as conditions; how many there were."""
    stripped = 0
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            if node.op != "Assert":
                continue
            awaited = dict.fromkeys(f"^{source.removeprefix('^').partition(':')[0]}" for source in node.input)
            del node.input[:]
            node.input.extend(awaited)
            node.op = "NoOp"
            for name in [name for name in node.attr if not name.startswith("_")]:
                del node.attr[name]
            stripped += 1
    return stripped
