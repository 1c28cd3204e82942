"""The SavedModel format, written and read without TensorFlow.

`write_weights` turns named tensors into a SavedModel, `verify` proves one sound, `summarize` says what is in it, `load` gives its
parts as Python objects. Names are those of `tf.saved_model` and `tf.compat.v1.saved_model`, constants included. The modules,
each using those before it: constants, wire; tree, object_graph, restore_graph; canonical, fingerprint; weights; reader,
consistency, verify, summary; tensor_info, signatures, main_op; lazy, variable_names, loaded_tree, loader, method_names.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from smdaemon.savedmodel.summary import Summary, summarize
from smdaemon.savedmodel.tree import Tree, nest
from smdaemon.savedmodel.verify import Verified, verify
from smdaemon.savedmodel.weights import write_weights
from smdaemon.savedmodel.writer import WrittenModel

if TYPE_CHECKING:
    from smdaemon.savedmodel.constants import *  # noqa: F403 - each of them is a name of this package
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
    from smdaemon.savedmodel.tensor_info import (
        CompositeTensor,
        GraphTensor,
        SparseTensor,
        build_tensor_info,
        build_tensor_info_from_op,
        get_tensor_from_tensor_info,
        ragged_tensor,
    )

__all__ = [
    "CompositeTensor",
    "GraphTensor",
    "LazyArray",
    "LoadedModel",
    "LoadedSignature",
    "MethodNameUpdater",
    "SparseTensor",
    "Summary",
    "Tree",
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
    "maybe_saved_model_directory",
    "nest",
    "op_signature_def",
    "predict_signature_def",
    "ragged_tensor",
    "regression_signature_def",
    "summarize",
    "supervised_eval_signature_def",
    "supervised_train_signature_def",
    "verify",
    "write_weights",
]

# Where the names are that are imported when they are first asked for: an export needs none of them. A name that is also a module's
# cannot stand here, for the module takes its place when it is imported.
_LATER = {
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
