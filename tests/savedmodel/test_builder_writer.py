"""The writer of whole SavedModels: what goes where, and what is refused."""

import os
from pathlib import Path

import pytest

from smdaemon.errors import DropError
from smdaemon.proto.tensorflow import FingerprintDef, GraphDebugInfo, MetaGraphDef, SavedModel
from smdaemon.savedmodel import verify
from smdaemon.savedmodel.canonical import canonical
from smdaemon.savedmodel.reader import read_saved_model
from smdaemon.savedmodel.writer import Contents, write_saved_model

MODEL = SavedModel(saved_model_schema_version=1, meta_graphs=[MetaGraphDef()])
MODEL.meta_graphs[0].meta_info_def.tags.append("serve")


def files(folder):
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_model_without_values_has_no_variables_unless_they_are_wanted(tmp_path):
    """An empty bundle is sound too."""
    write_saved_model(tmp_path / "without", Contents(MODEL))
    write_saved_model(tmp_path / "with", Contents(MODEL, keep_variables=True))
    assert files(tmp_path / "without") == {"saved_model.pb", "fingerprint.pb"}
    assert "variables/variables.index" in files(tmp_path / "with")
    verify(tmp_path / "without")
    assert verify(tmp_path / "with").tensors == 0


@pytest.mark.parametrize("as_text", [False, True])
def test_message_and_bytes_give_the_same_model(tmp_path, as_text):
    """And the same fingerprint, in text form too."""
    contents = []
    for number, model in enumerate((MODEL, canonical(MODEL))):
        export_dir = tmp_path / str(number)
        write_saved_model(export_dir, Contents(model), as_text=as_text)
        assert read_saved_model(export_dir)[1] == MODEL
        assert verify(export_dir).fingerprint == "matches"
        contents.append({name: (export_dir / name).read_bytes() for name in files(export_dir)})
    assert contents[0] == contents[1]
    assert FingerprintDef.FromString(contents[0]["fingerprint.pb"]).checkpoint_hash == 0


def test_debug_info_is_a_message_or_bytes(tmp_path):
    """Both lie in debug/."""
    info = GraphDebugInfo(files=["a.py"])
    for name, given in (("a", info), ("b", info.SerializeToString())):
        write_saved_model(tmp_path / name, Contents(MODEL, debug_info=given))
        content = (tmp_path / name / "debug/saved_model_debug_info.pb").read_bytes()
        assert GraphDebugInfo.FromString(content) == info


def test_copied_assets_count_and_may_stop_the_export(tmp_path):
    """What on_bytes raises leaves nothing behind."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * (5 << 20))
    counted = []
    contents = Contents(MODEL, assets={"deep/copy": source})
    written = write_saved_model(tmp_path / "model", contents, on_bytes=counted.append)
    assert (tmp_path / "model/assets/deep/copy").read_bytes() == source.read_bytes()
    assert sum(counted) == 5 << 20
    assert written.bytes == sum((tmp_path / "model" / name).stat().st_size for name in files(tmp_path / "model"))

    def stop(count):
        raise InterruptedError

    with pytest.raises(InterruptedError):
        write_saved_model(tmp_path / "stopped", contents, on_bytes=stop)
    assert not (tmp_path / "stopped").exists()


def test_every_new_directory_is_synced(tmp_path, monkeypatch):
    """The deepest first, the parent last; none of it without sync."""
    synced = []
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: synced.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
    )
    contents = Contents(MODEL, assets_extra={"a/b": b""})
    write_saved_model(tmp_path / "fast", contents, sync=False)
    assert synced == []
    write_saved_model(tmp_path / "model", contents)
    root = str(tmp_path / "model")
    assert synced[-4:] == [f"{root}/assets.extra/a", f"{root}/assets.extra", root, str(tmp_path)]


def test_a_directory_that_is_there_is_refused_unless_it_may_be_empty(tmp_path):
    """And never if it is not."""
    (tmp_path / "model").mkdir()
    with pytest.raises(DropError) as caught:
        write_saved_model(tmp_path / "model", Contents(MODEL))
    assert caught.value.code == "export-dir-exists"
    write_saved_model(tmp_path / "model", Contents(MODEL), into_empty=True)
    with pytest.raises(DropError) as caught:
        write_saved_model(tmp_path / "model", Contents(MODEL), into_empty=True)
    assert caught.value.code == "export-dir-exists"
