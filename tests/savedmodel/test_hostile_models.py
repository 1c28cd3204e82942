"""SavedModels that mean harm: an error with a code or a sound answer, quickly and in little memory, whatever is asked."""

import random
import subprocess
import sys
import tracemalloc
from itertools import count
from pathlib import Path

import numpy as np
import pytest
from hostile_models import ODD, REFUSED
from savedmodel_values import tensors

from smdaemon.errors import DropError
from smdaemon.placement import parse_policy, place
from smdaemon.savedmodel import load_v2, summarize, verify, write_weights
from smdaemon.savedmodel.diff import diff
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.reexport import reexport
from smdaemon.savedmodel.writer import write_saved_model

MEMORY_BYTES = 256 << 20
"""Python's own memory, while a hostile model of some megabytes is looked at."""

CASES = REFUSED | ODD


@pytest.fixture
def model(tmp_path):
    """A sound export."""
    write_weights(tmp_path / "model", tensors({"a/0/w": np.arange(6.0), "a/1/w": np.ones((2, 2)), "b": np.array(1)}))
    return tmp_path / "model"


def load_all(export_dir):
    """Look at every part of a model."""
    with load_v2(export_dir) as loaded:
        for variable in loaded.variables.values():
            variable.read()
        dir(loaded.root)
        repr(loaded.root)
        getattr(loaded.root, "variables", None)
        repr(loaded.signatures)
        repr(loaded.assets)
        repr((loaded.init_op, loaded.train_op))
        loaded.debug_info  # noqa: B018
        loaded.check_fingerprint()


def placed(export_dir):
    """Take the devices out of the model."""
    place(read_saved_model(export_dir)[1], parse_policy("strip"))


def reexported(export_dir):
    """Write the model again, with its own values."""
    again = export_dir.parent / f"again{next(_NUMBERS)}"
    write_saved_model(again, reexport(export_dir, {}, missing="keep", policy=parse_policy("strip")), sync=False)


_NUMBERS = count()

COMMANDS = {
    "load": load_all,
    "summarize": summarize,
    "verify": verify,
    "place": placed,
    "diff": lambda export_dir: diff(export_dir, export_dir),
    "re-export": reexported,
}


def answer(command, export_dir):
    """The code of the error, None for an answer; its memory is bounded."""
    tracemalloc.start()
    try:
        COMMANDS[command](export_dir)
    except DropError as error:
        return error.code
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < MEMORY_BYTES, f"{peak} bytes"
    return None


@pytest.mark.parametrize("case", CASES)
def test_hostile_models_are_answered(model, case):
    """Loading and verifying refuse what is bad with a code; nothing raises anything else."""
    CASES[case](model)
    codes = {command: answer(command, model) for command in COMMANDS}
    if case in REFUSED:
        assert codes["load"] is not None
        assert codes["verify"] is not None
    assert {code for code in codes.values() if code} <= {
        "savedmodel-corrupt",
        "savedmodel-inconsistent",
        "asset-invalid",
        "signature-invalid",
        "bundle-corrupt",
        "dtype-unsupported",
    }


WORST = ["deep text", "deep messages", "a huge saved_model.pb", "a huge index", "a long constant", "a long chain"]


@pytest.mark.parametrize("case", WORST)
def test_the_worst_in_a_small_address_space(model, case):
    """A process of 1 GiB answers all the same: no memory is taken for what the files only claim."""
    CASES[case](model)
    program = (
        "import resource, sys; from pathlib import Path; from smdaemon.errors import DropError\n"
        "import smdaemon.savedmodel as s; resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))\n"
        "for command in (s.load_v2, s.summarize, s.verify):\n"
        "    try: command(Path(sys.argv[1]))\n"
        "    except DropError as error: print(error.code)\n"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, str(model)], capture_output=True, text=True, check=False, timeout=60
    )
    assert found.returncode == 0, found.stderr


def test_cut_and_flipped_files(model):
    """Every file cut short, emptied, or with some bits turned: an error or an answer, never anything else."""
    chance = random.Random(7)
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        content = path.read_bytes()
        damaged = [content[: len(content) // part] for part in (2, 3, 10)] + [b"", content[:-1]]
        for _ in range(40):
            flipped = bytearray(content)
            for _ in range(chance.choice([1, 4, 30])):
                flipped[chance.randrange(len(flipped))] ^= 1 << chance.randrange(8)
            damaged.append(bytes(flipped))
        for change in damaged:
            path.write_bytes(change)
            for command in COMMANDS:
                answer_or_code(command, model)
        path.write_bytes(content)
    load_all(model)


def answer_or_code(command, export_dir):
    """Like `answer`, without measuring."""
    try:
        COMMANDS[command](export_dir)
    except DropError as error:
        return error.code
    return None


def test_messages_with_random_fields(model):
    """Fields of the message exchanged by chance for others of the same kind: a thousand models, no surprise."""
    chance = random.Random(11)
    content, sound = read_saved_model(model)
    (model / "fingerprint.pb").unlink()
    for _ in range(150):
        damaged = type(sound).FromString(content)
        for _ in range(5):
            mutate(damaged, chance)
        (model / "saved_model.pb").write_bytes(damaged.SerializeToString())
        for command in COMMANDS:
            answer_or_code(command, model)


def mutate(message, chance):
    """Change one field somewhere in a message."""
    while True:
        fields = [(field, value) for field, value in message.ListFields() if field.name != "stripped_op_list"]
        if not fields:
            return
        field, value = chance.choice(fields)
        repeated = hasattr(value, "__len__") and not isinstance(value, str | bytes)
        if repeated and hasattr(value, "items"):
            key = chance.choice(sorted(value))
            if not hasattr(value[key], "ListFields"):
                return
            message = value[key]
        elif repeated and field.message_type is not None:
            at = chance.randrange(len(value))
            if chance.random() < 0.1:
                del value[at]
                return
            message = value[at]
        elif repeated:
            at = chance.randrange(len(value))
            value[at] = odd(value[at], chance)
            return
        elif field.message_type is not None:
            if chance.random() < 0.1:
                message.ClearField(field.name)
                return
            message = value
        else:
            setattr(message, field.name, odd(value, chance))
            return


def odd(value, chance):
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return chance.choice([0, -1, 1, 7, 2**31 - 1])
    if isinstance(value, str):
        return chance.choice(["", "x:0", "^", "save/RestoreV2:9", "a/b"])
    if isinstance(value, bytes):
        return chance.choice([b"", b"x", b"\xff"])
    return 0.5


def test_a_pipe_in_the_place_of_a_file(model):
    """Nothing waits for a pipe that nobody writes into."""
    import os

    for name in ("saved_model.pb", "variables/variables.index", "fingerprint.pb"):
        content = (model / name).read_bytes()
        (model / name).unlink()
        os.mkfifo(model / name)
        for command in COMMANDS:
            code = answer_or_code(command, model)
            if name != "fingerprint.pb" and command != "place":
                assert code is not None, (name, command)
        (model / name).unlink()
        (model / name).write_bytes(content)
    assert isinstance(model, Path)
