"""`smdaemon verify`: every checksum of a SavedModel, and whether its parts fit together."""

from dataclasses import asdict
from pathlib import Path

from smdaemon.cli import output
from smdaemon.cli.options import AsJson
from smdaemon.errors import fault


def verify(saved_model: Path, /, *, as_json: AsJson = False) -> None:
    """Read every byte of a SavedModel's variables back and compare checksums; hold graph and variables against each other.

    Exits with 1 and says what is wrong where anything is.

    Parameters
    ----------
    saved_model
        The directory that holds saved_model.pb or saved_model.pbtxt.
    """
    from smdaemon.savedmodel.verify import verify as verify_saved_model

    try:
        verified = verify_saved_model(saved_model)
    except OSError as error:
        raise fault(error, "reading the SavedModel") from error
    if as_json:
        output.print_json(asdict(verified))
    else:
        tensors = output.counted(verified.tensors, "tensor")
        size = output.human_bytes(verified.bytes)
        fingerprint = f"fingerprint {verified.fingerprint}"
        print(f"{output.visible(str(saved_model))}: sound ({tensors}, {size}, {fingerprint})")
