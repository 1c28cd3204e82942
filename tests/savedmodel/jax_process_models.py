"""What two processes save and describe alike."""

from jax_kit import KEY, PARAMS, X, affine

from smdaemon.savedmodel.jax import describe, save, symbolic


def arguments():
    """Functions, parameters and inputs."""
    functions = {KEY: affine, "first": lambda params, rows: rows[0] * params["b"][0]}
    return functions, PARAMS, {KEY: {"x": symbolic("batch, 3", "float32")}, "first": {"rows": X}}


def saved(path):
    """The model, with gradients."""
    functions, params, inputs = arguments()
    return save(functions, params, path, inputs, vjp_order=1, sync=False)


def described():
    """Its function bundle."""
    functions, params, inputs = arguments()
    return describe(functions, params, inputs, vjp_order=1)
