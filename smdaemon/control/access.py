"""Who may do what over the control socket: whoever can connect may read; acting is for the daemon's owner and whom the owner names.

On the unix socket the kernel says who has connected. TCP says nothing of the kind, so there acting takes a token.
"""

import hmac
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from starlette.requests import Request

from smdaemon.control.render import HttpError
from smdaemon.errors import ConfigError, fault
from smdaemon.unix_socket import uid_of

_TOKEN_LETTERS = 16
"""A token has at least so many: one that is guessed is none."""


@dataclass(frozen=True)
class Access:
    """Who may act: users by their ids, and over TCP whoever shows the token (empty: nobody)."""

    users: frozenset[int]
    token: str = ""

    def check(self, request: Request) -> None:
        """HttpError 403 for a request that wants something done and comes from one who may not."""
        if request.method in {"GET", "HEAD"}:
            return
        uid = getattr(request.state, "peer_uid", None)
        if uid is not None and uid not in self.users:
            raise _refused(f"user {uid} may read here, not act", "ask the daemon's owner, or be one of control_users")
        if uid is None and not self._shows_token(request.headers.get("authorization", "")):
            raise _refused(
                "over TCP acting takes the token of control_token_file",
                "use the unix socket, or send Authorization: Bearer TOKEN (SMDAEMON_TOKEN_FILE for smdaemon's commands)",
            )

    def _shows_token(self, header: str) -> bool:
        kind, _, token = header.partition(" ")
        # whatever it is compared with, it takes as long
        return (
            kind.lower() == "bearer" and bool(self.token) and hmac.compare_digest(token.encode(), self.token.encode())
        )


def access_of(users: Iterable[str], token_file: str = "") -> Access:
    """The access that the configuration describes: the daemon's own user, root, and `users` by name or id.

    ConfigError `config-invalid` for a token that others may read or that is short, EnvironmentFault where it cannot be read.
    """
    allowed = frozenset({os.getuid(), 0, *(uid_of(user) for user in users)}) - {-1}
    return Access(allowed, _token(Path(token_file)) if token_file else "")


def _token(path: Path) -> str:
    try:
        mode = path.stat().st_mode
        token = path.read_text(encoding="ascii").strip()
    except OSError as error:
        raise fault(error, "reading control_token_file") from error
    except UnicodeDecodeError:
        token = ""
    if mode & 0o077:
        raise ConfigError(
            "config-invalid", f"control_token_file {str(path)!r} can be read by others", remedy=f"chmod 600 {path}"
        )
    if len(token) < _TOKEN_LETTERS:
        raise ConfigError(
            "config-invalid",
            f"control_token_file {str(path)!r} has a token of {len(token)} letters, {_TOKEN_LETTERS} are the least",
            remedy="make one with: openssl rand -hex 32",
        )
    return token


def _refused(message: str, remedy: str) -> HttpError:
    return HttpError(403, message, remedy=remedy, code="not-allowed")
