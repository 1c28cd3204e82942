"""Which stager takes a tensor, and what that imports."""

import subprocess
import sys

import numpy as np
import pytest

from smdaemon.errors import DropError
from smdaemon.staging.stagers import STAGERS, specs_of, stager_of, stagers_of

PROGRAM = """
import sys
import numpy as np
from smdaemon.staging.stagers import specs_of, stagers_of
from smdaemon.staging.trees import named_tensors
tensors = named_tensors({"a": [np.ones(3), 2.5]})
stagers = stagers_of(tensors)
specs_of(tensors, stagers)
for stager in stagers.values():
    stager.prepare(memoryview(bytearray(4096)))
print(sorted({"jax", "torch", "cupy", "cuda", "trio", "tensorflow"} & set(sys.modules)))
"""


def test_nothing_is_imported_that_the_trainer_has_not_imported() -> None:
    """A trainer of numpy's arrays loads no other library, and none of the daemon's."""
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("tensor", ["text", b"bytes", object(), [1, 2], np.dtype("f4")], ids=repr)
def test_what_is_no_tensor_is_refused(tensor: object) -> None:
    """The error says what it is and which arrays are taken."""
    with pytest.raises(DropError, match="'layer/w' is a ") as caught:
        stager_of("layer/w", tensor)
    assert caught.value.code == "handoff-tensor"
    assert "numpy" in caught.value.remedy


def test_an_error_of_a_tensor_has_its_name() -> None:
    """Among thousands the trainer must find it; the remedy stays."""
    tensors = {"good": np.ones(2), "bad": np.array(["text"])}
    with pytest.raises(DropError, match=r"^'bad': ") as caught:
        specs_of(tensors, stagers_of(tensors))
    assert caught.value.code == "dtype-unsupported"
    assert caught.value.remedy


def test_every_stager_says_what_it_promises() -> None:
    """Names are different, guarantees are sentences."""
    assert len({stager.name for stager in STAGERS}) == len(STAGERS)
    assert all("save returns" in stager.guarantee for stager in STAGERS)
