"""`smdaemon inspect`: what a SavedModel holds, without TensorFlow."""

from pathlib import Path

from smdaemon.cli.inspect_page import show
from smdaemon.cli.options import AsJson


def inspect(saved_model: Path, /, *, as_json: AsJson = False) -> None:
    """Show the tags, signatures, functions, ops, variables, devices and sizes of a SavedModel.

    Parameters
    ----------
    saved_model
        The directory that holds saved_model.pb or saved_model.pbtxt.
    """
    show(saved_model, as_json=as_json)
