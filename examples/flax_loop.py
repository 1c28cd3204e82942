"""Trains a classifier in flax and hands it to smdaemon as it goes.

    python examples/flax_loop.py

The function is described once, so that each save is a version that TensorFlow Serving can serve. Without arguments a daemon is
started on a temporary directory; a running one is named by --socket, --model and --runs.
"""

import importlib.util
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn
from scratch_daemon import SAVES, daemon, options, report

from smdaemon.handoff import attach, describe
from smdaemon.savedmodel.jax import symbolic

BATCH, CLASSES = 256, 3
FUNCTIONS = "spirals.functions"


class Classifier(nn.Module):
    """Which arm of a spiral a point of the plane lies on."""

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scores of the arms, [batch, 3] of points [batch, 2]."""
        for width in (64, 64):
            x = nn.gelu(nn.Dense(width)(x))
        return nn.Dense(CLASSES)(x)


model = Classifier()
optimizer = optax.adam(3e-3)


def predict(params: Any, x: jax.Array) -> dict[str, jax.Array]:
    """What is served."""
    return {"probabilities": nn.softmax(model.apply(params, x))}


@partial(jax.jit, donate_argnums=(0, 1))
def train_step(params: Any, state: Any, x: jax.Array, labels: jax.Array) -> tuple[Any, Any, jax.Array]:
    """One step of Adam; it takes the memory of the parameters that it was given."""

    def loss_of(params: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x), labels).mean()

    loss, gradients = jax.value_and_grad(loss_of)(params)
    updates, state = optimizer.update(gradients, state)
    return optax.apply_updates(params, updates), state, loss


def batches() -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Points of three spirals, and on which of them each lies."""
    random = np.random.default_rng(7)
    while True:
        labels = random.integers(0, CLASSES, BATCH)
        radius = random.uniform(0.1, 1, BATCH)
        angle = 5 * radius + 2 * np.pi / CLASSES * labels + random.normal(0, 0.1, BATCH)
        yield np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).astype(np.float32), labels


def main() -> None:
    """Learn the spirals, and save four times on the way."""
    told = options(__doc__, steps=1200)
    params = model.init(jax.random.key(0), jnp.zeros((1, 2)))
    state = optimizer.init(params)
    handles = []
    with daemon(told) as place:
        if place.runs is None:
            sys.exit("beside --socket, --runs must say what the model watches: the functions are put there")
        (place.runs / FUNCTIONS).write_bytes(describe(predict, params, {"x": symbolic("batch, 2", "float32")}))
        with attach(place.socket) as sidecar:
            sidecar.reserve(params)
            for step, (x, labels) in zip(range(1, told.steps + 1), batches(), strict=False):
                params, state, loss = train_step(params, state, x, labels)
                if step % (told.steps // SAVES) == 0:
                    handles.append(sidecar.save(step, params, model=place.model, function=FUNCTIONS, on_busy="wait"))
                    print(f"step {step:5}  loss {loss:.4f}")
            published = report(handles)
        if handles[-1].result().state == "published":
            compare(published[-1], params)


def compare(version: Path, params: Any) -> None:
    """Let TensorFlow answer from the version, where it is installed, and compare with what JAX answers."""
    if importlib.util.find_spec("tensorflow") is None:
        print("TensorFlow is not installed: no prediction is compared")
        return
    import tensorflow as tf

    x, _ = next(batches())
    served = tf.saved_model.load(str(version)).signatures["serving_default"](x=tf.constant(x))["probabilities"]
    difference = np.abs(served.numpy() - predict(params, x)["probabilities"]).max()
    print(f"TensorFlow serves what JAX computes: they differ by {difference:.1e} at most")
    if difference > 1e-4:
        sys.exit("that is too much")


if __name__ == "__main__":
    main()
