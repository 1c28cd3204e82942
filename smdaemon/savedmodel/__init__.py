"""The SavedModel format, written and read without TensorFlow.

`write_weights` turns named tensors into a SavedModel, `verify` proves one sound, `summarize` says what is in it. The modules,
each using those before it: constants, wire; tree, object_graph, restore_graph; canonical, fingerprint; weights; reader,
consistency, verify, summary.
"""

from smdaemon.savedmodel.summary import Summary, summarize
from smdaemon.savedmodel.tree import Tree, nest
from smdaemon.savedmodel.verify import Verified, verify
from smdaemon.savedmodel.weights import write_weights
from smdaemon.savedmodel.writer import WrittenModel

__all__ = ["Summary", "Tree", "Verified", "WrittenModel", "nest", "summarize", "verify", "write_weights"]
