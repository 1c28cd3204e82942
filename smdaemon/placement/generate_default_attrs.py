"""Writes `default_attrs.binpb`, the default attr values of TensorFlow's ops, from the TensorFlow that is installed.

    python -m smdaemon.placement.generate_default_attrs

A developer's tool: it alone needs TensorFlow, and runs when the followed release changes. Of each op that has defaults the table
holds an OpDef with its name and those attrs' names and defaults; ops in order of their names.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

from smdaemon.proto.pool import deterministic


def main() -> None:
    """Writes the table beside this file."""
    from smdaemon.proto.tensorflow import OpList

    session: Any = import_module("tensorflow.python.client.pywrap_tf_session")
    registered = OpList.FromString(session.TF_GetBuffer(session.TF_GetAllOpList()))
    table = OpList()
    for op in sorted(registered.op, key=lambda op: op.name):
        defaults = [attr for attr in op.attr if attr.HasField("default_value")]
        if defaults:
            kept = table.op.add(name=op.name)
            for attr in defaults:
                kept.attr.add(name=attr.name, default_value=attr.default_value)
    Path(__file__).with_name("default_attrs.binpb").write_bytes(deterministic(table))


if __name__ == "__main__":
    main()
