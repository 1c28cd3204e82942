"""Small tensors that a SavedModel carries besides the source's."""

from collections.abc import Iterator

from smdaemon.tensorbundle.dtypes import STRING
from smdaemon.tensorbundle.tensors import Buffer


class StringScalar:
    """A string tensor of one element. An ArrayTensor would do, but for it numpy is loaded, which takes 0.2 s."""

    dtype = STRING
    shape = ()

    def __init__(self, content: bytes) -> None:
        self._content = content

    @property
    def nbytes(self) -> int:
        """Bytes of the value."""
        return len(self._content)

    def buffers(self) -> Iterator[Buffer]:
        """The one element."""
        yield self._content
