"""JAX functions as SavedModels that TensorFlow serves, without TensorFlow.

save(predict, params, "exports/1", inputs={"x": symbolic("batch, 784", "float32")})

The function becomes a signature that calls its StableHLO, the parameters become variables, stored once. `describe` makes of the same
arguments a function bundle, with which smdaemon turns every later checkpoint into a servable version. jax is imported where it is
used; the modules, each using those before it: pytrees, lowering, tracing, gradients, saving.
"""

from smdaemon.savedmodel.jax.saving import SavedFunctions, describe, save, symbolic

__all__ = ["SavedFunctions", "describe", "save", "symbolic"]
