"""Names for the values of a checkpoint.

A checkpoint of TensorFlow 1 has them as keys. One of objects (TensorFlow 2) has keys such as
`model/layers/0/kernel/.ATTRIBUTES/VARIABLE_VALUE`: the path of the object, each part escaped ("." as "..", "/" as ".S"), and
which of its values it is. Slots of optimizers lie beneath their variable, as `model/w/.OPTIMIZER_SLOT/optimizer/m`.
"""

from collections.abc import Iterable

from smdaemon.savedmodel.constants import OBJECT_GRAPH_KEY
from smdaemon.savedmodel.name_map import object_names


def tensor_names(keys: Iterable[str], *, objects: bool) -> dict[str, str]:
    """The bundle keys by tensor name, in the order of the keys; `objects` says whether the keys are paths of objects.

    The name of a variable is the path of its object; other values have their kind at the end, as `table/table-keys`. Where two
    would have one name, because a part of a path held "/", the second keeps its parts escaped.
    """
    named: dict[str, str] = {}
    for key in keys:
        if key == OBJECT_GRAPH_KEY:
            continue
        name = next((name for name in object_names(key) if name not in named), key) if objects else key
        named[name] = key
    return named
