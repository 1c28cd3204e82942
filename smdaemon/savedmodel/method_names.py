"""Changes the method names of a SavedModel's signatures, in place or into another directory's saved_model file."""

from collections.abc import Iterable
from pathlib import Path

from smdaemon.durable import write_atomically
from smdaemon.errors import DropError
from smdaemon.proto.pool import deterministic
from smdaemon.savedmodel.canonical import canonical
from smdaemon.savedmodel.constants import FINGERPRINT_FILENAME, SAVED_MODEL_FILENAME_PB, SAVED_MODEL_FILENAME_PBTXT
from smdaemon.savedmodel.fingerprint import fingerprint_of
from smdaemon.savedmodel.reader import read_fingerprint, read_index, read_saved_model


class MethodNameUpdater:
    """The SavedModel in `export_dir`, whose method names are replaced one by one and then saved.

    Raises DropError as `read_saved_model` does.
    """

    def __init__(self, export_dir: str | Path) -> None:
        self._export_dir = Path(export_dir)
        _, self._model = read_saved_model(self._export_dir)

    def replace_method_name(
        self, signature_key: str, method_name: str, tags: str | Iterable[str] | None = None
    ) -> None:
        """Give the signature `signature_key` another method: in the meta graph of exactly these tags, in all for None.

        Raises DropError `signature-invalid` for an empty name and where a meta graph has no such signature, `tags-not-found`.
        """
        if not signature_key or not method_name:
            raise DropError("signature-invalid", "a signature's key and its method name must not be empty")
        wanted = None if tags is None else {tags} if isinstance(tags, str) else set(tags)
        chosen = [
            meta_graph
            for meta_graph in self._model.meta_graphs
            if wanted is None or set(meta_graph.meta_info_def.tags) == wanted
        ]
        if not chosen:
            sets = ", ".join(str(sorted(meta_graph.meta_info_def.tags)) for meta_graph in self._model.meta_graphs)
            raise DropError("tags-not-found", f"there is no meta graph tagged {sorted(wanted or ())}; there are {sets}")
        for meta_graph in chosen:
            if signature_key not in meta_graph.signature_def:
                raise DropError(
                    "signature-invalid",
                    f"the meta graph tagged {sorted(meta_graph.meta_info_def.tags)} has no signature {signature_key!r};"
                    f" it has {sorted(meta_graph.signature_def)}",
                )
        for meta_graph in chosen:
            meta_graph.signature_def[signature_key].method_name = method_name

    def save(self, new_export_dir: str | Path | None = None) -> Path:
        """Write the saved_model file anew, into another existing directory if that is given; its path.

        It is replaced by a rename; text stays text. A fingerprint beside it is made anew.
        """
        from google.protobuf import text_format

        is_text = not (self._export_dir / SAVED_MODEL_FILENAME_PB).is_file()
        directory = self._export_dir if new_export_dir is None else Path(new_export_dir)
        path = directory / (SAVED_MODEL_FILENAME_PBTXT if is_text else SAVED_MODEL_FILENAME_PB)
        if read_fingerprint(directory) is not None:
            fingerprint = fingerprint_of(self._model, read_index(directory))
            write_atomically(directory / FINGERPRINT_FILENAME, deterministic(fingerprint))
        write_atomically(path, text_format.MessageToString(self._model).encode() if is_text else canonical(self._model))
        return path
