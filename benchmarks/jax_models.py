"""The JAX models that are exported, each as a function of parameters and one input `x`, with values for both.

Values are drawn by numpy: nothing is compiled before it is exported.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

MODELS = ("mlp", "mlp, any batch", "conv net", "transformer")
VOCABULARY, TOKENS = 1000, 32


def make(name: str) -> tuple[Callable[[Any, Any], Any], Any, Any]:
    """Function, parameters and example input of one of MODELS; a size of None in the input may differ from call to call."""
    import jax

    model, example = _flax(name)
    apply: Callable[[Any, Any], Any] = model.apply
    shapes = jax.eval_shape(partial(model.init, jax.random.key(0)), example)
    random = np.random.default_rng(7)
    return apply, jax.tree.map(lambda leaf: random.normal(0, 0.05, leaf.shape).astype(leaf.dtype), shapes), example


def example_input(name: str) -> "np.ndarray[Any, Any]":
    """What a model is called with."""
    random = np.random.default_rng(8)
    if name == "transformer":
        return random.integers(0, VOCABULARY, (2, TOKENS), np.int32)
    return random.random((2, 28, 28, 1) if name == "conv net" else (2, 784), np.float32)


def any_batch(name: str) -> bool:
    """Whether the first size of the input is left open."""
    return name.endswith("any batch")


def _flax(name: str) -> tuple[Any, Any]:
    """The flax module and its example input."""
    from flax import linen as nn

    class Mlp(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for width in (512, 512):
                x = nn.gelu(nn.Dense(width)(x))
            return nn.softmax(nn.Dense(10)(x))

    class ConvNet(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            for width in (32, 64, 64):
                x = nn.relu(nn.GroupNorm(8)(nn.Conv(width, (3, 3))(x)))
            return nn.Dense(10)(x.mean(axis=(1, 2)))

    class Transformer(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            x = nn.Embed(VOCABULARY, 128)(x) + self.param("positions", nn.initializers.normal(), (TOKENS, 128))
            for _ in range(4):
                normed = nn.LayerNorm()(x)
                x = x + nn.MultiHeadDotProductAttention(4)(normed, normed)
                x = x + nn.Dense(128)(nn.gelu(nn.Dense(512)(nn.LayerNorm()(x))))
            return nn.Dense(VOCABULARY)(nn.LayerNorm()(x))

    module = {"conv net": ConvNet, "transformer": Transformer}.get(name, Mlp)()
    return module, example_input(name)
