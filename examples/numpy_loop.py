"""Trains a small network in numpy and hands its weights to smdaemon as it goes.

    python examples/numpy_loop.py

Each save becomes a version that TensorFlow can load. Without arguments a daemon is started on a temporary directory.
"""

import numpy as np
from scratch_daemon import SAVES, daemon, options, report

from smdaemon.handoff import attach

WIDTH, BATCH = 128, 128
RATE, MOMENTUM = 0.02, 0.9
Arrays = dict[str, np.ndarray]


def initial(random: np.random.Generator) -> Arrays:
    """The weights of two layers."""
    return {
        "hidden/kernel": random.normal(0, 1, (2, WIDTH)),
        "hidden/bias": random.normal(0, 1, WIDTH),
        "out/kernel": random.normal(0, 1 / WIDTH**0.5, (WIDTH, 1)),
        "out/bias": np.zeros(1),
    }


def train_step(params: Arrays, velocity: Arrays, x: np.ndarray, y: np.ndarray) -> float:
    """One step of gradient descent with momentum, in place; the loss before it."""
    hidden = np.tanh(x @ params["hidden/kernel"] + params["hidden/bias"])
    error = hidden @ params["out/kernel"] + params["out/bias"] - y
    back = error @ params["out/kernel"].T * (1 - hidden**2)
    gradients = {
        "hidden/kernel": x.T @ back,
        "hidden/bias": back.sum(axis=0),
        "out/kernel": hidden.T @ error,
        "out/bias": error.sum(axis=0),
    }
    for name, gradient in gradients.items():
        velocity[name] = MOMENTUM * velocity.get(name, 0) - RATE / len(x) * gradient
        params[name] += velocity[name]
    return float((error**2).mean())


def main() -> None:
    """Learn a surface of two variables, and save four times on the way."""
    told = options(__doc__, steps=2000)
    random = np.random.default_rng(7)
    params = initial(random)
    velocity: Arrays = {}
    handles = []
    with daemon(told) as place, attach(place.socket) as sidecar:
        sidecar.reserve(params)
        for step in range(1, told.steps + 1):
            x = random.uniform(-1, 1, (BATCH, 2))
            loss = train_step(params, velocity, x, np.sin(3 * x[:, :1]) * x[:, 1:])
            if step % (told.steps // SAVES) == 0:
                handles.append(sidecar.save(step, params, model=place.model, on_busy="wait"))
                print(f"step {step:5}  loss {loss:.4f}")
        report(handles)


if __name__ == "__main__":
    main()
