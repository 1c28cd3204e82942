"""Files that hold a secret: read only where nobody else can read them."""

from pathlib import Path

from smdaemon.errors import ConfigError, fault


def read_private(path: Path, called: str, *, code: str) -> str:
    """The text of the file at `path`, without space around it; '' where it is no ASCII. `called` names it in messages.

    Raises ConfigError `code` where there is none or others than its owner may read it, EnvironmentFault where it cannot be read.
    """
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="ascii").strip()
    except FileNotFoundError as error:
        remedy = "make it, with a mode of 600"
        raise ConfigError(code, f"{called} {str(path)!r} is not there", remedy=remedy) from error
    except OSError as error:
        raise fault(error, f"reading {called}") from error
    except UnicodeDecodeError:
        text = ""
    if mode & 0o077:
        raise ConfigError(code, f"{called} {str(path)!r} can be read by others", remedy=f"chmod 600 {path}")
    return text
