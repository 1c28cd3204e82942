"""An existing SavedModel as the mould of new ones: which of its bundle's entries are variables, and what is known of each."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import finalize

from smdaemon.savedmodel.constants import VARIABLE_VALUE
from smdaemon.savedmodel.name_map import SAVE_COUNTER, VALUE_SUFFIX
from smdaemon.savedmodel.reader import read_index, read_trackable_graph, variables_prefix
from smdaemon.tensorbundle.dtypes import DType
from smdaemon.tensorbundle.entries import BundleEntry
from smdaemon.tensorbundle.reader import BundleReader
from smdaemon.tensorbundle.tensors import Buffer, Tensor

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import NodeDef, SavedModel, SavedVariable, TrackableObjectGraph

_KERAS_COPIES = "_all_variables/"
"""The list in which an export of Keras's has its variables once more."""


class TemplateBundle:
    """The bundle of the SavedModel in `export_dir`, whose meta graphs `model` has; open until nobody has one of its tensors.

    `entries` are empty and `objects` is None for a model without variables.
    """

    def __init__(self, export_dir: Path, model: "SavedModel") -> None:
        self._model = model
        self._reader: BundleReader | None = None
        self.entries: dict[str, BundleEntry] = {}
        self.objects: TrackableObjectGraph | None = None
        if read_index(export_dir) is not None:
            self._reader = BundleReader(variables_prefix(export_dir))
            finalize(self, self._reader.close)
            self.entries = dict(self._reader.entries())
            self.objects = read_trackable_graph(self._reader)

    def tensor(self, key: str) -> Tensor:
        """The template's own value."""
        assert self._reader is not None
        return _KeptTensor(self._reader.tensor(key), self)

    def must_have_value(self, key: str) -> bool:
        """Whether `key` is a variable's; the others, as the content of tables, may stay as they are."""
        if self.objects is not None:
            return key in self._variable_keys
        return key != SAVE_COUNTER and key not in self._table_keys

    def variable(self, key: str) -> "SavedVariable | None":
        """What the model's object graph says of the variable with that key."""
        return self._variables.get(key, (0, None))[1]

    def are_one_variable(self, keys: Sequence[str]) -> bool:
        """Whether these keys, of one name, are one variable: one that functions use, and the copy that Keras's `export` made of it.

        A name and an equal value alone say nothing: variables are called "Variable" and hold zeros until someone says otherwise.
        """
        copies = [key for key in keys if self._is_copy(key)]
        used = [key for key in keys if not self._is_idle(key)]
        if len(copies) != 1 or len(used) != 1 or len(keys) != 2:
            return False
        copy, own = self.entries[copies[0]], self.entries[used[0]]
        same = (copy.dtype, copy.shape, copy.size, copy.crc) == (own.dtype, own.shape, own.size, own.crc)
        return same and not (copy.slices or own.slices)

    def copies(self, key: str) -> list[str]:
        """Where `key` is the copy that Keras's `export` made of a variable, the keys of that variable and of the copy; else none.

        It writes every variable twice: once for the functions, once in the list of all variables that functions use.
        """
        if not self._is_copy(key):
            return []
        same = self._keys_by_full_name[self._full_names[key]]
        return same if self.are_one_variable(same) else []

    def _is_copy(self, key: str) -> bool:
        """Whether `key` is where Keras's `export` puts copies, and no function uses it."""
        return key.startswith(_KERAS_COPIES) and self._is_idle(key)

    def _is_idle(self, key: str) -> bool:
        """Whether no function of the model uses the variable with that key."""
        node, _ = self._variables.get(key, (None, None))
        return node is not None and node not in self._used_nodes

    @cached_property
    def _variable_keys(self) -> frozenset[str]:
        return frozenset(self._full_names) - {SAVE_COUNTER + VALUE_SUFFIX}

    @cached_property
    def _full_names(self) -> dict[str, str]:
        """The names of the variables in the program, by key."""
        nodes = [] if self.objects is None else self.objects.nodes
        return {
            attribute.checkpoint_key: attribute.full_name
            for node in nodes
            for attribute in node.attributes
            if attribute.name == VARIABLE_VALUE and attribute.checkpoint_key in self.entries
        }

    @cached_property
    def _keys_by_full_name(self) -> dict[str, list[str]]:
        keys: dict[str, list[str]] = {}
        for key, name in self._full_names.items():
            keys.setdefault(name, []).append(key)
        return keys

    @cached_property
    def _used_nodes(self) -> frozenset[int]:
        """The numbers of the saved objects that a function of the model captures."""
        graph = self._model.meta_graphs[0].object_graph_def
        return frozenset(number for function in graph.concrete_functions.values() for number in function.bound_inputs)

    @cached_property
    def _variables(self) -> "dict[str, tuple[int, SavedVariable]]":
        """The saved variables with their nodes' numbers, by key. Both object graphs have the same edges, not the same numbers."""
        if self.objects is None or not self.objects.nodes:
            return {}
        from smdaemon.savedmodel.consistency import matched_nodes

        saved = self._model.meta_graphs[0].object_graph_def
        return {
            attribute.checkpoint_key: (number, saved.nodes[number].variable)
            for number, twin in (matched_nodes(saved, self.objects) if saved.nodes else ())
            if twin is not None and saved.nodes[number].HasField("variable")
            for attribute in self.objects.nodes[twin].attributes
            if attribute.name == VARIABLE_VALUE
        }

    @cached_property
    def _table_keys(self) -> frozenset[str]:
        """The keys that the restore ops of TensorFlow 1 put into tables."""
        return frozenset(
            key
            for meta_graph in self._model.meta_graphs
            for nodes in (
                meta_graph.graph_def.node,
                *(function.node_def for function in meta_graph.graph_def.library.function),
            )
            for key in _restored_to_tables(nodes)
        )


def _restored_to_tables(nodes: "Sequence[NodeDef]") -> Iterator[str]:
    from smdaemon.savedmodel.graph_names import operation, output_number
    from smdaemon.savedmodel.restores import restores

    restored = restores({node.name: node for node in nodes})
    for table in nodes:
        if table.op in {"LookupTableImport", "LookupTableImportV2"}:
            for source in table.input[1:3]:
                outputs = restored.get(operation(source), [])
                if output_number(source) < len(outputs):
                    yield outputs[output_number(source)].key


class _KeptTensor:
    """A tensor of the template, which keeps the template's files open."""

    def __init__(self, tensor: Tensor, owner: TemplateBundle) -> None:
        self._tensor = tensor
        self._owner = owner

    @property
    def dtype(self) -> DType:
        return self._tensor.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self._tensor.shape

    @property
    def nbytes(self) -> int:
        return self._tensor.nbytes

    def buffers(self) -> Iterator[Buffer]:
        yield from self._tensor.buffers()
