"""The JAX functions that every release of TensorFlow is to run: parameters, one input, and what they are there to show.

All take `x` with the batch as its first axis, so that each can be exported for one batch and for any.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = Any


class Model(NamedTuple):
    """A function of parameters and `x`, and the values that it is compiled for."""

    function: Callable[[Any, Array], Any]
    params: Any
    x: Array


def models() -> dict[str, Model]:
    """All of them, by name."""
    rows = _normal(2, 16)
    return {
        "mlp": Model(_mlp, {"first": _dense(16, 32), "last": _dense(32, 4)}, rows),
        "conv": Model(_conv, {"kernel": _normal(3, 3, 3, 8)}, _normal(2, 8, 8, 3)),
        "transformer (flax)": _transformer(),
        "top_k": Model(lambda params, x: jax.lax.top_k(x * params["scale"], 3), {"scale": _normal(16)}, rows),
        "sort, argsort": Model(
            lambda params, x: {"sorted": jnp.sort(x * params["scale"]), "order": jnp.argsort(x)},
            {"scale": _normal(16)},
            rows,
        ),
        "gelu by erf": Model(
            lambda params, x: jax.nn.gelu(x @ params["kernel"], approximate=False), {"kernel": _normal(16, 4)}, rows
        ),
        "random numbers": Model(_random, {"seed": np.array([3, 14], np.uint32)}, rows),
        "scan": Model(_scan, {"kernel": 0.3 * _normal(4, 4)}, _normal(2, 8, 4)),
        "fft": Model(lambda params, x: jnp.abs(jnp.fft.rfft(x * params["window"])), {"window": _normal(16)}, rows),
        "bfloat16": Model(
            lambda params, x: jax.nn.relu(x @ params["kernel"]),
            {"kernel": _normal(16, 4).astype(jnp.bfloat16)},
            rows.astype(jnp.bfloat16),
        ),
    }


_drawn = np.random.default_rng(5)


def _normal(*shape: int) -> Array:
    return _drawn.normal(size=shape).astype(np.float32)


def _dense(inputs: int, outputs: int) -> dict[str, Array]:
    return {"kernel": _normal(inputs, outputs), "bias": _normal(outputs)}


def _mlp(params: Any, x: Array) -> Array:
    hidden = jax.nn.relu(x @ params["first"]["kernel"] + params["first"]["bias"])
    return jax.nn.softmax(hidden @ params["last"]["kernel"] + params["last"]["bias"])


def _conv(params: Any, x: Array) -> Array:
    mapped = jax.lax.conv_general_dilated(
        x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jax.lax.reduce_window(jax.nn.relu(mapped), -jnp.inf, jax.lax.max, (1, 2, 2, 1), (1, 2, 2, 1), "VALID")


def _random(params: Any, x: Array) -> Array:
    """Noise from a key that is a parameter, added to the input."""
    return x + jax.random.normal(jax.random.wrap_key_data(params["seed"]), x.shape)


def _scan(params: Any, x: Array) -> Array:
    """A recurrent layer over the second axis."""

    def step(state: Array, given: Array) -> tuple[Array, Array]:
        state = jnp.tanh(state @ params["kernel"] + given)
        return state, state

    return jax.lax.scan(step, jnp.zeros_like(x[:, 0]), x.swapaxes(0, 1))[0]


def _transformer() -> Model:
    from flax import linen as nn

    class Block(nn.Module):
        @nn.compact
        def __call__(self, x: Array) -> Array:
            x = nn.Embed(50, 16)(x)
            normed = nn.LayerNorm()(x)
            x = x + nn.MultiHeadDotProductAttention(2)(normed, normed)
            return nn.Dense(50)(x + nn.Dense(16)(nn.gelu(nn.Dense(32)(nn.LayerNorm()(x)))))

    tokens = _drawn.integers(0, 50, (2, 6), np.int32)
    block = Block()
    return Model(block.apply, block.init(jax.random.key(0), tokens), tokens)
