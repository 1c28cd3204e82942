"""Makes the golden bundles with TensorFlow: `python tests/tensorbundle/make_golden.py`, with TensorFlow 2.21 installed."""

import hashlib
import json
import shutil
import tempfile
from pathlib import Path

import tensorflow as tf
from bundle_cases import GOLDEN, LARGE, SMALL, rows

from smdaemon.tensorbundle import ArrayTensor


def save(case: str, prefix: Path) -> None:
    """Save the tensors of `case` as TensorFlow does."""
    saved = rows(case)
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=[row.name for row in saved],
        shape_and_slices=[" ".join((*map(str, row.shape), row.spec)) if row.spec else "" for row in saved],
        tensors=[tf.constant(row.value, dtype=tf.dtypes.as_dtype(ArrayTensor(row.value).dtype.enum)) for row in saved],
    )


def main() -> None:
    """Write all golden files anew."""
    shutil.rmtree(GOLDEN, ignore_errors=True)
    GOLDEN.mkdir()
    for case in SMALL:
        save(case, GOLDEN / case)
    digests = {}
    with tempfile.TemporaryDirectory() as scratch:
        for case in LARGE:
            save(case, Path(scratch, case))
            for path in sorted(Path(scratch).glob(f"{case}.*")):
                content = path.read_bytes()
                digests[path.name] = {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    (GOLDEN / "digests.json").write_text(json.dumps(digests, indent=2) + "\n")


if __name__ == "__main__":
    main()
