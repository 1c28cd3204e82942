# ruff: noqa: T201 - printing is how it tells
"""Runs with TensorFlow alone: loads every export below a folder, calls it, and compares the answers with JAX's.

    python reading.py FOLDER

Prints a line of JSON for each export: its name, and the greatest difference or the error.
"""

import json
import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

TOLERANCE = {"bfloat16": 2e-2}
FLOAT32_TOLERANCE = 1e-4


def main() -> None:
    """Judge every export below the folder of the command line."""
    folder = Path(sys.argv[1])
    for path in sorted(folder.glob("*/*/*/saved_model.pb")):
        export = path.parent
        line = {"export": str(export.relative_to(folder)), "difference": None, "error": ""}
        try:
            line["difference"] = _difference(export)
        except Exception as error:  # noqa: BLE001 - whatever TensorFlow says of a model is what the table is for
            line["error"] = f"{type(error).__name__}: {error}"
        print(json.dumps(line), flush=True)


def _difference(export: Path) -> float:
    """The greatest difference of an answer from JAX's, of the greatest answer; ValueError where it is more than rounding."""
    batch, model = export.parent.name, export.parent.parent
    with np.load(model / "inputs.npz") as inputs, np.load(model / "answers.npz") as answers:
        dtype = (model / "dtype").read_text()
        x = tf.cast(tf.constant(inputs[batch]), dtype)
        wanted = {key.partition("/")[2]: answers[key] for key in answers.files if key.startswith(f"{batch}/")}
    given = tf.saved_model.load(str(export)).signatures["serving_default"](x=x)
    if given.keys() != wanted.keys():
        raise ValueError(f"the outputs are {sorted(given)} and were {sorted(wanted)}")
    worst = 0.0
    for name, answer in wanted.items():
        got = given[name]
        got = (tf.cast(got, tf.float32) if got.dtype == tf.bfloat16 else got).numpy()
        if got.shape != answer.shape or got.dtype != answer.dtype:
            raise ValueError(f"{name} is {got.dtype} of {got.shape} and was {answer.dtype} of {answer.shape}")
        worst = max(worst, float(np.max(np.abs(got - answer)) / np.max(np.abs(answer))))
    if not worst <= TOLERANCE.get(dtype, FLOAT32_TOLERANCE):
        raise ValueError(f"the answers differ by {worst:.1e} of the greatest")
    return worst


if __name__ == "__main__":
    main()
