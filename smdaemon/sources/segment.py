"""A handoff segment as a source: tensors that lie in shared memory, which nobody copies before they are written."""

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from smdaemon.errors import DropError, fault
from smdaemon.sources.files import read_whole
from smdaemon.staging.layout import Layout, decode_layout
from smdaemon.tensorbundle.dtypes import dtype_named
from smdaemon.tensorbundle.image import MappedTensor
from smdaemon.tensorbundle.tensors import Tensor

HANDOFF = "handoff"


class SegmentSource:
    """The tensors of a segment, mapped until it is closed and nobody has one of them any more.

    What lies between them is set to zero: an earlier save may have left it there, and the segment is written as it lies.

    `path` names the segment's memory in any process of the user: /proc/PID/fd/NUMBER. The caller has seen to it that it cannot shrink.
    """

    format = HANDOFF
    metadata: Mapping[str, str] = {}
    working_bytes = 0

    def __init__(self, path: Path, layout: Layout) -> None:
        self.path = path
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        except OSError as error:
            raise DropError("handoff-lost", f"the segment {str(path)!r} is gone: {error.strerror}") from error
        try:
            self._map = mmap.mmap(descriptor, os.fstat(descriptor).st_size)
        except (OSError, ValueError) as error:
            raise fault(OSError(getattr(error, "errno", 0) or 0, str(error)), "mapping a segment") from error
        finally:
            os.close(descriptor)
        if len(self._map) < layout.nbytes:
            raise DropError("handoff-protocol", f"the segment has {len(self._map)} bytes, its plan {layout.nbytes}")
        view = memoryview(self._map)[: layout.nbytes]
        self.held_bytes = _clear_between(view, layout)
        self.buffer = view.toreadonly()
        self.tensors: Mapping[str, Tensor] = {
            row.name: MappedTensor(self, row.offset, dtype_named(row.dtype), row.shape, row.nbytes)
            for row in layout.rows
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """The map goes with the last view of it, and with the last tensor: not with ours, which would keep us in a circle."""
        self.tensors = {}

    def files(self) -> tuple[Path, ...]:
        """None: nobody but the trainer can change it."""
        return ()

    def check_unchanged(self) -> None:
        """Nothing to be compared: what was written is read back against its checksums."""


def _clear_between(view: memoryview, layout: Layout) -> int:
    """Set to zero what is no tensor's; the bytes of all tensors."""
    import numpy as np

    content = np.frombuffer(view, np.uint8)
    end = held = 0
    for offset, nbytes in layout.places():
        if offset > end:
            content[end:offset] = 0
        end = offset + nbytes
        held += nbytes
    content[end:] = 0  # a tensor without bytes may lie behind all others
    return held


def open_segment(segment: Path, plan: Path) -> SegmentSource:
    """The source in the memory `segment`, whose plan is in the memory `plan`. Raises DropError as `decode_layout`, `handoff-lost`."""
    try:
        size = segment.stat().st_size
        content = read_whole(plan)
    except (OSError, DropError) as error:
        raise DropError("handoff-lost", f"the segment {str(segment)!r} is gone") from error
    return SegmentSource(segment, decode_layout(content, size))
