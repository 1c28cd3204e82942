"""TensorFlow's own files as a source: checkpoints of TensorFlow 1 and 2, and the variables of a SavedModel.

TensorFlow writes the data files of a checkpoint first and its index last, each under another name and then renamed: with the
index a checkpoint is whole. The graph of TensorFlow 1's Saver (`.meta`) follows after that. Whoever exports weights need not
wait for it; for who needs it there is `wait_for_graph`.
"""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from smdaemon.errors import DropError
from smdaemon.paths import exists, is_file
from smdaemon.savedmodel.constants import (
    SAVED_MODEL_FILENAME_PB,
    SAVED_MODEL_FILENAME_PBTXT,
    SERVING,
    VARIABLE_VALUE,
    VARIABLES_FILENAME,
)
from smdaemon.savedmodel.reader import read_index, read_saved_model, read_trackable_graph, variables_prefix
from smdaemon.savedmodel.writer import Contents
from smdaemon.sources.checkpoint_names import tensor_names
from smdaemon.sources.checkpoint_state import INDEX_SUFFIX, META_SUFFIX, checkpoint_prefix, is_data_file
from smdaemon.sources.files import SourceFile, source_fault, stat_of
from smdaemon.sources.opened import FileSource, check_any, check_name
from smdaemon.sources.step import step_of
from smdaemon.tensorbundle.files import data_path, index_path
from smdaemon.tensorbundle.reader import BundleReader
from smdaemon.tensorbundle.table import FOOTER_BYTES, MAGIC
from smdaemon.tensorbundle.tensors import Tensor

if TYPE_CHECKING:
    from smdaemon.proto.tensorflow import TrackableObjectGraph

TF_CHECKPOINT = "tf-checkpoint"
TF1_CHECKPOINT = "tf1-checkpoint"

_STEPS = ("global_step", "step", "optimizer/iter", "optimizer/_iterations")
"""Where a training job counts its steps, if the checkpoint's name does not say."""

# what a writer of several data files has in its scratch directory, until it joins them to one checkpoint
_SCRATCH_INDEX = re.compile(r"part-[0-9]{5}-of-[0-9]{5}\.index")


class CheckpointSource(FileSource):
    """A checkpoint, open. Its tensors have TensorFlow 1's names, or the paths of TensorFlow 2's objects.

    `prefix` is its own, also where it was found by a state file; `keys` are the bundle's keys by tensor name; `object_graph` is
    the tree of objects that was saved, None in a checkpoint by names. What is no variable and of a type that only TensorFlow
    reads, the state of an iterator, is not among the tensors: `metadata["left_out"]` has the names.
    """

    def __init__(self, format_name: str, path: Path, bundle: BundleReader, files: Sequence[SourceFile]) -> None:
        self.bundle = bundle
        self.prefix = Path(bundle.prefix)
        self.object_graph: TrackableObjectGraph | None = read_trackable_graph(bundle)
        self.keys = tensor_names(bundle.keys(), objects=self.object_graph is not None)
        tensors: dict[str, Tensor] = {}
        left_out = []
        for name, key in self.keys.items():
            check_name(name)
            try:
                tensors[name] = bundle.tensor(key)
            except DropError as error:
                if error.code != "dtype-unsupported" or self.object_graph is None or key.endswith(VARIABLE_VALUE):
                    raise
                left_out.append(name)
        check_any(tensors, path)
        metadata = _metadata(self.prefix, tensors) | ({"left_out": ", ".join(left_out)} if left_out else {})
        super().__init__(format_name, path, tensors, metadata, files)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.bundle.close()
        super().__exit__(kind, error, trace)

    def contents(
        self, tensors: Mapping[str, Tensor], *, tags: Sequence[str] = (SERVING,), separator: str | None = None
    ) -> Contents:
        """A SavedModel of `tensors`, which are chosen from this source's, maybe under new names; without signatures.

        Objects of TensorFlow 2 keep their tree and the bundle's keys. With a `separator`, or once a tensor has a new name, the
        names say the nesting instead, as they do for TensorFlow 1; there a tensor that lies beneath another (`w/Adam` beside
        `w`) stands beside it under its whole name. Raises DropError as `weights_contents` does.
        """
        from smdaemon.savedmodel.kept_objects import kept_contents
        from smdaemon.savedmodel.weights import weights_contents

        own = all(self.tensors.get(name) is tensor for name, tensor in tensors.items())
        if self.object_graph is not None and separator is None and own:
            return kept_contents(self.object_graph, {self.keys[name]: tensors[name] for name in tensors}, tags=tags)
        return weights_contents(tensors, tags=tags, separator=separator or "/", joined=True)


class TfCheckpointFormat:
    """A checkpoint: `PREFIX.index` and its data files.

    A user may also name its prefix, another of its files, or a directory with a `checkpoint` state file, whose latest is taken
    then; with `state_anywhere` that may lie outside the directory. With `wait_for_graph` a drop is complete with its `.meta`.
    """

    name = "tf-checkpoint"
    suffix = INDEX_SUFFIX
    self_judging = True

    def __init__(self, name: str = name, *, wait_for_graph: bool = False, state_anywhere: bool = False) -> None:
        self.name = name
        self._wait_for_graph = wait_for_graph
        self._state_anywhere = state_anywhere

    def claims(self, path: Path) -> bool:
        """Whether it is an index with a data file beside it.

        Not the index of a SavedModel's variables, nor those of the scratch directory that sharded checkpoints are joined from.
        """
        if not path.name.endswith(INDEX_SUFFIX) or os.path.isdir(path):  # noqa: PTH112 - this one never raises
            return False
        prefix = path.name.removesuffix(INDEX_SUFFIX)
        if prefix == VARIABLES_FILENAME and path.parent.name == VARIABLES_FILENAME:
            return False
        if _SCRATCH_INDEX.fullmatch(path.name) and "_temp" in path.parent.name:
            return False
        if os.path.lexists(data_path(path.with_name(prefix), 0, 1)):
            return True
        try:
            with os.scandir(path.parent) as entries:
                return any(_is_data_of(prefix, entry.name) for entry in entries)
        except OSError:
            return False  # it is going away, or is not for our eyes

    def is_complete(self, path: Path) -> bool:
        """Whether the index is whole and every data file is as long as the index needs it.

        DropError `bundle-corrupt` for an index that is whole and yet unsound.
        """
        prefix = checkpoint_prefix(path, anywhere=self._state_anywhere)
        if not _is_whole(index_path(prefix)):
            return False
        with BundleReader(prefix) as bundle:
            for shard, nbytes in bundle.reach().items():
                try:
                    if data_path(prefix, shard, bundle.header.shards).stat().st_size < nbytes:
                        return False
                except FileNotFoundError:
                    return False
        return not self._wait_for_graph or exists(f"{prefix}{META_SUFFIX}")

    def parts(self, path: Path) -> list[str]:
        """The index, the data files that it counts, none while it cannot be understood, and the `.meta` where that is waited for."""
        prefix = checkpoint_prefix(path, anywhere=self._state_anywhere)
        graph = [Path(f"{prefix}{META_SUFFIX}")] if self._wait_for_graph else []
        return [os.fspath(part) for part in (index_path(prefix), *_data_files(prefix), *graph)]

    def open(self, path: Path) -> CheckpointSource:
        """See `Format`."""
        prefix = checkpoint_prefix(path, anywhere=self._state_anywhere)
        if not exists(index_path(prefix)) and is_file(prefix):
            raise DropError(
                "source-unknown-format",
                f"{str(prefix)!r} has no index: it is no checkpoint, or one of TensorFlow's first format",
                remedy="save the checkpoint again with Saver(write_version=SaverDef.V2), or with tf.train.Checkpoint",
            )
        return _opened(self.name, path, prefix)


class SavedModelFormat:
    """The variables of a SavedModel, by their names in its object tree; in one of TensorFlow 1 by their own names.

    A SavedModel in a watched directory is what others publish there, not what a training job drops: it is nobody's drop.
    """

    name = "saved-model"
    suffix = ""
    self_judging = True

    def claims(self, path: Path) -> bool:  # noqa: ARG002 - the signature is the protocol's
        """No path: see the class."""
        return False

    def is_complete(self, path: Path) -> bool:
        """Whether `saved_model.pb` and the variables are there; loaders expect no more."""
        _check_model(path)
        return read_index(path) is not None and TfCheckpointFormat().is_complete(variables_prefix(path))

    def open(self, path: Path) -> CheckpointSource:
        """See `Format`; DropError `source-empty` for a model without variables."""
        _check_model(path)
        if read_index(path) is None:
            raise DropError("source-empty", f"the SavedModel {str(path)!r} has no variables")
        return _opened(self.name, path, variables_prefix(path))


def is_saved_model(path: Path) -> bool:
    """Whether the directory is a SavedModel, by names alone. OSError where that cannot be told."""
    return any(is_file(path / name) for name in (SAVED_MODEL_FILENAME_PB, SAVED_MODEL_FILENAME_PBTXT))


def _check_model(path: Path) -> None:
    """DropError `source-missing` where nothing is there, and what reading the model raises."""
    stat_of(path)
    try:
        read_saved_model(path)
    except OSError as error:
        raise source_fault(error, path) from error


def _is_data_of(prefix: str, name: str) -> bool:
    return name.startswith(f"{prefix}.data-") and is_data_file(name)


def _is_whole(index: Path) -> bool:
    """Whether the index ends as one does; while it is copied it does not."""
    file = SourceFile(index)
    try:
        return file.size >= FOOTER_BYTES and file.read(file.size - len(MAGIC), len(MAGIC)) == MAGIC
    finally:
        file.close()


def _data_files(prefix: Path) -> list[Path]:
    """The data files that the index counts; none while it cannot be understood."""
    try:
        if not _is_whole(index_path(prefix)):
            return []
        with BundleReader(prefix) as bundle:
            shards = bundle.header.shards
    except DropError:
        return []
    return [data_path(prefix, shard, shards) for shard in range(shards)]


def _opened(format_name: str, path: Path, prefix: Path) -> CheckpointSource:
    # opened once before it is read, so that who replaces a file from here on is noticed
    files = [SourceFile(index_path(prefix), transient=True)]
    bundle = BundleReader(prefix)
    try:
        for shard in sorted(bundle.reach()):
            data = data_path(prefix, shard, bundle.header.shards)
            if not exists(data):
                raise DropError("bundle-missing-shard", f"there is no data file {str(data)!r}")
            files.append(SourceFile(data, transient=True))
        return CheckpointSource(format_name, path, bundle, files)
    except BaseException:
        bundle.close()
        raise


def _metadata(prefix: Path, tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """The step, if the prefix or a counter in the checkpoint tells it."""
    step = step_of(index_path(prefix), {})
    for name in _STEPS:
        if step is None and name in tensors:
            step = _whole_number(tensors[name])
    return {} if step is None else {"step": str(step)}


def _whole_number(tensor: Tensor) -> int | None:
    if tensor.shape != () or tensor.dtype.name not in {"int32", "int64"}:
        return None
    number = int.from_bytes(b"".join(bytes(buffer) for buffer in tensor.buffers()), "little", signed=True)
    return number if number >= 0 else None
