"""Which step a drop is of."""

from pathlib import Path

import pytest

from smdaemon.sources.step import step_of


@pytest.mark.parametrize(
    ("path", "step"),
    [
        ("/w/ckpt-41.npz", 41),
        ("/w/ckpt-41", 41),
        ("/w/step_00041.safetensors", 41),
        ("/w/41.npy", 41),
        ("/w/41", 41),
        ("/w/model.step=41.safetensors", 41),
        ("/w/model.step=41", 41),
        ("/w/model-41.npz", 41),
        ("/w/model_41.npz", 41),
        ("/w/global_step41", 41),
        ("/w/global-step-41-final.npz", 41),
        ("/w/epoch=3-step=100.npz", 100),
        ("/w/bert-v2-step100.npz", 100),
        ("/w/step100-fp16.npz", 100),
        ("/w/Step100_ckpt-3.npz", 100),
        ("/w/iter_0007.npz", 7),
        ("/w/ckpt-41.safetensors.index.json", 41),
        ("/w/ckpt-41-00001-of-00003.safetensors", 41),
        ("/w/checkpoint-500/model.safetensors", 500),
        ("/w/checkpoint-500/model.safetensors.index.json", 500),
        ("/w/500/model.safetensors", 500),
        ("/w/checkpoint-500/model-00001-of-00002.safetensors", 500),
        ("/w/checkpoint-500/arrays-3.npz", 3),
        ("/w/run-3/model.npz", None),
        ("/w/llama-7b.npz", None),
        ("/w/bert-v2.npz", None),
        ("/w/resnet50.npz", None),
        ("/w/weights-fp16.npz", None),
        ("/w/filter3.npz", None),
        ("/w/model-00001-of-00003.safetensors", None),
        ("/w/model.npz", None),
        ("/w/ckpt_best.npz", None),
        ("/w/step-٣.npz", None),
        ("/w/weights.0012-0.54.weights.h5", None),
        ("/w/weights.0012.weights.h5", 12),
        ("/w/step=7-loss=0.25.npz", 7),
        ("/w/ckpt-41-0.25.npz", 41),
        ("/w/bert-v1.5-step100.npz", 100),
        ("/w/model_1.5-41.npz", 41),
        ("/w/model_1.5.npz", None),
        ("/w/model-1.2.3.npz", None),
        ("/w/step_1e5.npz", None),
        ("/w/ckpt-1E+5.npz", None),
        ("/w/step-3.5.npz", None),
        ("/w/step-35.5/model.npz", None),
        ("/w/ckpt-41.5.npz", None),
        ("/w/lr-1e-05.npz", None),
        ("/w/model-2026-11-27.npz", None),
        ("/w/model-2026-12-01.npz", None),
        ("/w/ckpt-2026-11-27.npz", None),
        ("/w/ckpt_2026_11_27.npz", None),
        ("/w/2026-11-27T10-30-00.npz", None),
        ("/w/2026-11-27T10:30:00.123456Z.npz", None),
        ("/w/2026-11-27T10:30:00+01:00.npz", None),
        ("/w/2026-11-27_10-30.npz", None),
        ("/w/2026-11-27 10.30.00.npz", None),
        ("/w/run-2026-11-27_103000.npz", None),
        ("/w/ckpt-41-2026-11-27.npz", 41),
        ("/w/2026-11-27-step-41.npz", 41),
        ("/w/2026-11-27_10-30-00_41.npz", 41),
        ("/w/model-2026-11-27-41.npz", 41),
        ("/w/model-2026-11-27-1500.npz", 1500),
        ("/w/model-2026-13-41.npz", 41),
        ("/w/2026-11-27/model.npz", None),
        ("/w/loss-2.54e-05.npz", None),
        ("/w/run-ab3e-41.npz", 41),
        ("/w/step100epoch3.npz", 100),
        ("/w/model.ckpt-500.index", 500),
        ("/w/model-20261127204200123456.npz", 20261127204200123456),
        (f"/w/step-{'9' * 5000}.npz", None),
    ],
)
def test_step_of_a_name(path, step):
    """The documented rule, name by name."""
    assert step_of(Path(path), {}) == step


@pytest.mark.parametrize(
    ("metadata", "step"),
    [
        ({"step": "7"}, 7),
        ({"global_step": " 7 "}, 7),
        ({"step": "7", "global_step": "8"}, 7),
        ({"step": "seven", "global_step": "8"}, 8),
        ({"step": "-1"}, None),
        ({"step": "9" * 5000}, None),
        ({"epoch": "7"}, None),
    ],
)
def test_step_of_metadata(metadata, step):
    """Metadata is asked when the name tells nothing, and only then."""
    assert step_of(Path("/w/model.safetensors"), metadata) == step
    assert step_of(Path("/w/ckpt-1.safetensors"), metadata) == 1


def test_the_directory_that_all_drops_are_in_tells_no_step():
    """Its name is that of a run, and every drop would be of its step; a directory in it tells one."""
    root = Path("/runs/ckpt-2")
    assert step_of(root / "model.safetensors", {"step": "100"}, root) == 100
    assert step_of(root / "model.safetensors", {}, root) is None
    assert step_of(root / "checkpoint-5" / "model.safetensors", {}, root) == 5
