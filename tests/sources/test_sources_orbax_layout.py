"""Which directories are Orbax checkpoints, and which are finished, by names and by what Orbax itself writes."""

import numpy as np
import pytest
from orbax_kit import write_item, write_step

from smdaemon.sources.formats import claiming, format_named
from smdaemon.sources.orbax_layout import committed, items_of, names_itself, parts_of

FORMAT = format_named("orbax")


@pytest.fixture(scope="module")
def orbax():
    """orbax.checkpoint."""
    import orbax.checkpoint

    return orbax.checkpoint


def touch(root, *names):
    """Empty files."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


@pytest.mark.parametrize(
    ("name", "files", "items"),
    [
        ("41", ["_CHECKPOINT_METADATA", "default/_METADATA"], ["default"]),
        ("best", ["_CHECKPOINT_METADATA", "default/_METADATA"], ["default"]),
        ("41", ["default/_METADATA"], ["default"]),
        ("step_41", ["state/_METADATA", "ema/_METADATA", "notes/x"], ["ema", "state"]),
        ("41", ["_METADATA", "d/x"], [""]),
        ("41", ["_METADATA", "_CHECKPOINT_METADATA", "sub/_METADATA"], [""]),
        ("41", ["_CHECKPOINT_METADATA"], []),
        ("41", ["_CHECKPOINT_METADATA", "metrics/metrics"], []),
        ("41", ["_CHECKPOINT_METADATA", ".hidden/_METADATA", "x.orbax-checkpoint-tmp/_METADATA"], []),
        ("runs", ["41/_METADATA", "42/default/_METADATA"], []),
        ("run_3", ["41/_METADATA", "ckpt_42/_METADATA"], []),
        ("run_3", ["a/_METADATA", "a/_CHECKPOINT_METADATA"], []),
        ("runs", ["a/_METADATA"], []),
        ("41", ["x.npy"], []),
        ("41", [], []),
    ],
)
def test_items_by_names(tmp_path, name, files, items):
    """A step by what it holds or is called; steps and checkpoints of their own in a directory do not make it one."""
    (tmp_path / name).mkdir()
    touch(tmp_path / name, *files)
    assert list(items_of(tmp_path / name)) == items
    assert FORMAT.claims(tmp_path / name) == bool(items)


def test_a_checkpoint_is_no_directory_of_arrays(tmp_path):
    """Nor is the directory that holds checkpoints, whatever else lies there."""
    touch(tmp_path, "41/_CHECKPOINT_METADATA", "41/default/_METADATA", "41/x.npy", "curve.npy")
    touch(tmp_path, "42.orbax-checkpoint-tmp/_CHECKPOINT_METADATA", "42.orbax-checkpoint-tmp/x.npy")
    touch(tmp_path, "arrays/x.npy")
    claims = {path.name: claiming(path) for path in [tmp_path, *tmp_path.iterdir()]}
    named = {name: found.name for name, found in claims.items() if found}
    assert named == {"41": "orbax", "curve.npy": "npy", "arrays": "npydir"}


def test_a_copy_is_finished_as_its_original_was(tmp_path):
    """By the marker or by the time of the commit; what was only begun is not; without either nothing tells."""
    for name, options, wanted in (
        ("1", {}, True),
        ("2", {"commit": None}, True),
        ("3", {"marker": False}, True),
        ("4", {"commit": None, "marker": False}, False),
    ):
        step = write_step(tmp_path / name, "default", **options)
        assert committed(step) is wanted
        assert committed(step / "default") is wanted
    (step / "_CHECKPOINT_METADATA").unlink()
    assert committed(step) is committed(step / "default") is None
    assert FORMAT.is_complete(step)


@pytest.mark.parametrize("commit_file", [False, True], ids=["by rename", "by commit file"])
@pytest.mark.parametrize("managed", [False, True], ids=["checkpointer", "manager"])
def test_a_save_in_progress_is_not_finished_and_its_end_is(orbax, tmp_path, monkeypatch, commit_file, managed):
    """Orbax itself saves: before its last act nothing there is a finished checkpoint, behind it there is one."""
    from orbax.checkpoint._src.path import atomicity

    kind = atomicity.CommitFileTemporaryPath if commit_file else atomicity.AtomicRenameTemporaryPath
    seen = []

    class Watched(kind):
        """Looks around before the last act."""

        async def finalize(self):
            found = [
                path for path in [*tmp_path.iterdir(), *tmp_path.glob("*/*")] if path.is_dir() and FORMAT.claims(path)
            ]
            top = self.get().parent == tmp_path
            seen.append((top, [path for path in found if path.parent == tmp_path and FORMAT.is_complete(path)]))
            await super().finalize()

    tree = {"w": np.arange(3.0)}
    if managed:
        options = orbax.CheckpointManagerOptions(temporary_path_class=Watched, enable_async_checkpointing=False)
        with orbax.CheckpointManager(tmp_path, options=options) as manager:
            manager.save(41, args=orbax.args.StandardSave(tree))
    else:
        orbax.Checkpointer(orbax.PyTreeCheckpointHandler(), temporary_path_class=Watched).save(tmp_path / "41", tree)
    assert [found for _, found in seen] == [[]] * len(seen)
    assert [top for top, _ in seen][-1]
    assert FORMAT.claims(tmp_path / "41")
    assert FORMAT.is_complete(tmp_path / "41")
    assert FORMAT.seals(tmp_path / "41", tmp_path / "41" / "commit_success.txt")


def test_only_its_own_marker_seals_a_checkpoint(tmp_path):
    """Not an item's, not another file, not one that was copied: there it may come before the data."""
    step = write_step(tmp_path / "41", "default")
    (step / "default" / "commit_success.txt").write_text(f"Checkpoint commit was successful to {step}/default")
    assert FORMAT.seals(step, step / "commit_success.txt")
    assert not FORMAT.seals(step, step / "default" / "commit_success.txt")
    assert not FORMAT.seals(step, step / "_CHECKPOINT_METADATA")
    for text in (
        "",
        "x",
        "Checkpoint commit was successful to /elsewhere/41",
        "Checkpoint commit was successful to \0",
    ):
        (step / "commit_success.txt").write_text(text)
        assert not names_itself(step / "commit_success.txt")


def test_parts_are_what_values_and_the_commit_depend_on(tmp_path):
    """Also hidden files; not what others put beside the items, nor the checkpoint's other files."""
    step = write_step(tmp_path / "41", "default")
    touch(step, "eval.json", "metrics/metrics", "default/note.txt", "default/d/x")
    names = {"_CHECKPOINT_METADATA", "commit_success.txt"}
    names |= {f"default/{name}" for name in ("_METADATA", "w/.zarray", "w/0", "d/x")}
    assert parts_of(step) == sorted(str(step / name) for name in names)
    assert FORMAT.parts(step) == parts_of(step)
    item = write_item(tmp_path / "best", {"w": np.arange(3)})
    touch(item, "eval.json")
    assert {path.removeprefix(f"{item}/") for path in parts_of(item)} == {"_METADATA", "w/.zarray", "w/0"}
