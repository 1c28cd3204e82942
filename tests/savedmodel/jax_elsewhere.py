"""A process of its own for test_jax_process.py: two devices, no TensorFlow. Writes below argv[1], and JSON on stdout."""

import json
import os
import sys
from pathlib import Path

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"


class NoTensorflow:
    """Makes every import of TensorFlow fail."""

    def find_spec(self, name, path=None, target=None):
        """Refuses it; anything else is found by others."""
        if name.partition(".")[0] in {"tensorflow", "keras"}:
            raise ImportError(f"{name} is imported")


sys.meta_path.insert(0, NoTensorflow())


def main(folder):
    """Saves and describes on one device, and tries to on two."""
    import jax
    import numpy as np
    from jax.sharding import Mesh, NamedSharding, PartitionSpec
    from jax_kit import PARAMS, X, affine
    from jax_process_models import described, saved

    from smdaemon.errors import DropError
    from smdaemon.savedmodel.jax import describe

    saved(folder / "model")
    (folder / "it.functions").write_bytes(described())
    mesh = Mesh(np.array(jax.devices()), ("data",))
    rows = NamedSharding(mesh, PartitionSpec("data"))
    constrained = lambda params, x: jax.lax.with_sharding_constraint(affine(params, x), rows)  # noqa: E731
    exported = jax.export.export(jax.jit(affine, in_shardings=(None, rows)))(PARAMS, X)
    refused = []
    for function, inputs in ((exported, None), (exported.serialize(), None), (constrained, {"x": X})):
        try:
            describe(function, PARAMS, inputs)
        except DropError as error:
            refused.append([error.code, error.message, error.remedy])
    # an array that lies on two devices is a parameter like any other
    params = {**PARAMS, "w": jax.device_put(np.ones((4, 2), np.float32), rows)}
    describe(affine, params, {"x": np.ones((2, 4), np.float32)})
    strays = [name for name in sys.modules if name.partition(".")[0] in {"tensorflow", "keras"}]
    sys.stdout.write(json.dumps({"devices": jax.device_count(), "refused": refused, "strays": strays}))


main(Path(sys.argv[1]))
