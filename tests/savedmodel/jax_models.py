"""Networks that the tests of the JAX export save: each a function of parameters and inputs, and the parameters."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

VOCABULARY, WIDTH, HEADS = 11, 8, 2


def values(seed, *shape):
    """Numbers around zero that depend on nothing else."""
    return (np.random.default_rng(seed).normal(size=shape) / 2).astype(np.float32)


def filled(shapes):
    """Arrays for a tree of shapes; nothing is compiled for them."""
    leaves, tree = jax.tree.flatten(shapes)
    return jax.tree.unflatten(tree, [values(number, *leaf.shape) for number, leaf in enumerate(leaves)])


def mlp():
    """Two dense layers; `x` is (batch, 5)."""
    params = {
        f"layer_{n}": {"w": values(n, *shape), "b": values(n, shape[1])} for n, shape in enumerate([(5, 7), (7, 3)])
    }

    def predict(params, x):
        hidden = jax.nn.gelu(x @ params["layer_0"]["w"] + params["layer_0"]["b"])
        return {"logits": hidden @ params["layer_1"]["w"] + params["layer_1"]["b"]}

    return predict, params


def conv():
    """A convolution, pooling and a dense layer; `image` is (batch, 8, 8, 2)."""
    params = {"kernel": values(1, 3, 3, 2, 4), "dense": values(2, 4, 3)}

    def predict(params, image):
        found = jax.lax.conv_general_dilated(
            image, params["kernel"], (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.nn.softmax(jnp.mean(jax.nn.relu(found), axis=(1, 2)) @ params["dense"])

    return predict, params


class LinenBlock(nn.Module):
    """A transformer of one block."""

    @nn.compact
    def __call__(self, tokens):
        """The logits of the next tokens."""
        x = nn.Embed(VOCABULARY, WIDTH)(tokens)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(nn.LayerNorm()(x), mask=nn.make_causal_mask(tokens))
        return nn.Dense(VOCABULARY)(x + nn.Dense(WIDTH)(nn.gelu(nn.Dense(2 * WIDTH)(nn.LayerNorm()(x)))))


def linen_transformer():
    """Attention and two dense layers in flax; `tokens` are (batch, 6)."""
    model = LinenBlock()
    shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 6), np.int32))
    return model.apply, filled(shapes)


class NnxBlock(nnx.Module):
    """A transformer of one block."""

    def __init__(self, rngs):
        self.embed = nnx.Embed(VOCABULARY, WIDTH, rngs=rngs)
        self.norm = nnx.LayerNorm(WIDTH, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(HEADS, WIDTH, decode=False, rngs=rngs)
        self.dense = nnx.List([nnx.Linear(WIDTH, 2 * WIDTH, rngs=rngs), nnx.Linear(2 * WIDTH, VOCABULARY, rngs=rngs)])

    def __call__(self, tokens):
        """The logits of the next tokens."""
        x = self.embed(tokens)
        x = x + self.attention(self.norm(x), mask=nnx.make_causal_mask(tokens))
        return self.dense[1](nnx.gelu(self.dense[0](x)))


def nnx_transformer():
    """Attention and two dense layers in flax; `tokens` are (batch, 6); the parameters are an nnx.State."""
    graph, shapes = nnx.split(nnx.eval_shape(lambda: NnxBlock(nnx.Rngs(0))))
    return (lambda state, tokens: nnx.merge(graph, state)(tokens)), filled(shapes)
