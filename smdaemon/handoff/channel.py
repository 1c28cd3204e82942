"""The trainer's end of the handoff socket: messages with descriptors, for plain threads."""

import os
import socket
import struct
import threading
from contextlib import suppress
from pathlib import Path

from smdaemon.errors import CODES, DropError, EnvironmentFault, fault
from smdaemon.handoff import protocol
from smdaemon.handoff.protocol import FDS_LIMIT, MESSAGE_BYTES, PROTOCOL, Hello, Message, Refused, Welcome

_SEND_SECONDS = 2
_GREETING_SECONDS = 15.0


class Channel:
    """A connection. One thread receives, any may send; a daemon that does not read for seconds counts as gone.

    Raises EnvironmentFault: `handoff-away` where no daemon answers, `too-many-files` where there is no descriptor for it; DropError `handoff-refused` or `handoff-protocol` where it does not want us.
    """

    def __init__(self, path: str | Path, hello: Hello) -> None:
        self._sending = threading.Lock()
        try:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError as error:
            raise fault(error, "connecting to the daemon") from error
        try:
            self._socket.settimeout(_GREETING_SECONDS)
            self._socket.connect(os.fspath(path))
            # who refuses us may be gone already: his words are there
            with suppress(BrokenPipeError, ConnectionResetError):
                self._socket.send(protocol.encode(hello))
            self._check_greeting()
            self._socket.settimeout(None)
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", _SEND_SECONDS, 0))
        except OSError as error:
            self._socket.close()
            raise EnvironmentFault(
                "handoff-away", f"no daemon answers on {os.fspath(path)!r}: {error}", retryable=True
            ) from error
        except BaseException:
            self._socket.close()
            raise

    def send(self, message: Message, *fds: int) -> None:
        """Send a message with descriptors, which stay the caller's. OSError where the daemon is gone."""
        packet = protocol.encode(message)
        with self._sending:
            socket.send_fds(self._socket, [packet], fds)

    def receive(self) -> tuple[Message, list[int]] | None:
        """The next message and its descriptors; None where the daemon has gone."""
        try:
            packet, fds, flags = self._packet()
        except OSError:
            return None
        if not packet:
            return None
        try:
            if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                raise DropError("handoff-protocol", "a packet is too long, or came with too many descriptors")
            return protocol.decode(packet, len(fds)), fds
        except BaseException:
            for fd in fds:
                os.close(fd)
            raise

    def _packet(self) -> tuple[bytes, list[int], int]:
        try:
            return socket.recv_fds(self._socket, MESSAGE_BYTES + 1, FDS_LIMIT, socket.MSG_CMSG_CLOEXEC)[:3]
        except ConnectionResetError:
            # the daemon left without having read everything; what it said before is still there to be read
            return socket.recv_fds(self._socket, MESSAGE_BYTES + 1, FDS_LIMIT, socket.MSG_CMSG_CLOEXEC)[:3]

    def close(self) -> None:
        """End the connection; a thread that receives is told by None."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        finally:
            self._socket.close()

    def _check_greeting(self) -> None:
        received = self.receive()
        if received is None:
            raise ConnectionResetError("it hung up")
        match received[0]:
            case Welcome(protocol=version) if version == PROTOCOL:
                return
            case Refused() as refused:
                raise DropError(known_code(refused.code), refused.message, remedy=refused.remedy or None)
            case other:
                raise DropError("handoff-protocol", f"the daemon greets with a {other.type} message")


def known_code(code: str) -> str:
    """The code of a daemon's refusal, or `handoff-protocol` where this release does not know it."""
    return code if code in CODES else "handoff-protocol"
