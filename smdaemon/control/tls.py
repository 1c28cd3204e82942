"""TLS for the control port, which other machines can reach then. Certificate and key are read at the start and at each reload."""

import ssl
from pathlib import Path

from smdaemon.errors import ConfigError
from smdaemon.settings import DaemonSettings


class Tls:
    """The server's side of TLS 1.2 and later. `context` is for the next connection; those that are open keep theirs."""

    def __init__(self, certificate: Path, key: Path) -> None:
        self._certificate = certificate
        self._key = key
        self.context = self._read()

    def reload(self) -> None:
        """Take a renewed certificate; ConfigError `config-invalid` where there is no sound one, and the old one stays."""
        self.context = self._read()

    def _read(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            if self._key.stat().st_mode & 0o077:
                raise ConfigError(
                    "config-invalid",
                    f"control_tls_key {str(self._key)!r} can be read by others",
                    remedy=f"chmod 600 {self._key}",
                )
            # with a password, even none, OpenSSL does not ask the terminal for that of an encrypted key
            context.load_cert_chain(self._certificate, self._key, password="")
        except OSError as error:  # of SSL too
            raise ConfigError(
                "config-invalid",
                f"control_tls_cert {str(self._certificate)!r} and control_tls_key {str(self._key)!r} cannot be used: {error}",
                remedy="both are PEM files; the key has no password and belongs to the first certificate",
            ) from error
        return context


def tls_of(settings: DaemonSettings) -> Tls | None:
    """What the control port speaks; None for plain HTTP. ConfigError `config-invalid` where certificate or key are unsound."""
    return Tls(Path(settings.control_tls_cert), Path(settings.control_tls_key)) if settings.control_tls_cert else None
