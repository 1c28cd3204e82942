"""The SavedModel format, written and read without TensorFlow.

`write_weights` turns named tensors into a SavedModel, `verify` proves one sound, `summarize` says what is in it, `load` gives its
parts as Python objects; `Builder` makes one of graphs and values, `save` of a tree of objects. Names are those of `tf.saved_model` and `tf.compat.v1.saved_model`, constants included. The modules,
each using those before it: constants, wire; tree, object_graph, restore_graph; canonical, fingerprint; weights; reader,
consistency, verify, summary; tensor_info, signatures, main_op; lazy, variable_names, loaded_tree, loader, method_names; graph_input, savers, asset_files, builder; functions, trackable, model_graph,
options, sharding, saving.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smdaemon.savedmodel.summary import Summary, summarize
from smdaemon.savedmodel.tree import Tree, nest
from smdaemon.savedmodel.verify import Verified, verify
from smdaemon.savedmodel.weights import write_weights
from smdaemon.savedmodel.writer import WrittenModel

if TYPE_CHECKING:
    from smdaemon.savedmodel.asset_files import Asset
    from smdaemon.savedmodel.builder import Builder
    from smdaemon.savedmodel.constants import *  # noqa: F403 - each of them is a name of this package
    from smdaemon.savedmodel.debug_info import Frame, make_debug_info, prune_debug_info
    from smdaemon.savedmodel.functions import GraphFunction
    from smdaemon.savedmodel.lazy import LazyArray
    from smdaemon.savedmodel.loader import (
        LoadedModel,
        LoadedSignature,
        contains_saved_model,
        load,
        load_v2,
        maybe_saved_model_directory,
    )
    from smdaemon.savedmodel.main_op import main_op_with_restore
    from smdaemon.savedmodel.method_names import MethodNameUpdater
    from smdaemon.savedmodel.options import SaveOptions, VariablePolicy
    from smdaemon.savedmodel.saving import save, simple_save
    from smdaemon.savedmodel.sharding import MaxShardSizePolicy, ShardByTaskPolicy, ShardingCallback
    from smdaemon.savedmodel.signatures import (
        build_signature_def,
        classification_signature_def,
        is_valid_signature,
        load_op_from_signature_def,
        op_signature_def,
        predict_signature_def,
        regression_signature_def,
        supervised_eval_signature_def,
        supervised_train_signature_def,
    )
    from smdaemon.savedmodel.structure import TensorSpec
    from smdaemon.savedmodel.tensor_info import (
        CompositeTensor,
        GraphTensor,
        SparseTensor,
        build_tensor_info,
        build_tensor_info_from_op,
        get_tensor_from_tensor_info,
        ragged_tensor,
    )
    from smdaemon.savedmodel.trackable import FileAsset, Variable
    from smdaemon.savedmodel.warmup import warmup_requests

__all__ = [
    "Asset",
    "Builder",
    "CompositeTensor",
    "FileAsset",
    "Frame",
    "GraphFunction",
    "GraphTensor",
    "LazyArray",
    "LoadedModel",
    "LoadedSignature",
    "MaxShardSizePolicy",
    "MethodNameUpdater",
    "SaveOptions",
    "ShardByTaskPolicy",
    "ShardingCallback",
    "SparseTensor",
    "Summary",
    "TensorSpec",
    "Tree",
    "Variable",
    "VariablePolicy",
    "Verified",
    "WrittenModel",
    "build_signature_def",
    "build_tensor_info",
    "build_tensor_info_from_op",
    "classification_signature_def",
    "contains_saved_model",
    "get_tensor_from_tensor_info",
    "is_valid_signature",
    "load",
    "load_op_from_signature_def",
    "load_v2",
    "main_op_with_restore",
    "make_debug_info",
    "maybe_saved_model_directory",
    "nest",
    "op_signature_def",
    "predict_signature_def",
    "prune_debug_info",
    "ragged_tensor",
    "regression_signature_def",
    "save",
    "simple_save",
    "summarize",
    "supervised_eval_signature_def",
    "supervised_train_signature_def",
    "verify",
    "warmup_requests",
    "write_weights",
]

# Where the names are that are imported when they are first asked for: an export needs none of them. A name that is also a module's
# cannot stand here, for the module takes its place when it is imported.
_LATER = {
    "builder": ("Builder",),
    "asset_files": ("Asset",),
    "debug_info": ("Frame", "make_debug_info", "prune_debug_info"),
    "functions": ("GraphFunction",),
    "options": ("SaveOptions", "VariablePolicy"),
    "saving": ("save", "simple_save"),
    "sharding": ("MaxShardSizePolicy", "ShardByTaskPolicy", "ShardingCallback"),
    "structure": ("TensorSpec",),
    "trackable": ("FileAsset", "Variable"),
    "warmup": ("warmup_requests",),
    "lazy": ("LazyArray",),
    "loader": (
        "LoadedModel",
        "LoadedSignature",
        "contains_saved_model",
        "load",
        "load_v2",
        "maybe_saved_model_directory",
    ),
    "main_op": ("main_op_with_restore",),
    "method_names": ("MethodNameUpdater",),
    "signatures": (
        "build_signature_def",
        "classification_signature_def",
        "is_valid_signature",
        "load_op_from_signature_def",
        "op_signature_def",
        "predict_signature_def",
        "regression_signature_def",
        "supervised_eval_signature_def",
        "supervised_train_signature_def",
    ),
    "tensor_info": (
        "CompositeTensor",
        "GraphTensor",
        "SparseTensor",
        "build_tensor_info",
        "build_tensor_info_from_op",
        "get_tensor_from_tensor_info",
        "ragged_tensor",
    ),
}


def __getattr__(name: str) -> Any:
    module = next((module for module, names in _LATER.items() if name in names), "constants")
    if module == "constants" and not name.isupper():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{module}"), name)
    globals()[name] = found
    return found
