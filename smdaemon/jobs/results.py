"""The result file of a request: `NAME.export.result.json` beside `NAME.export.json`, written whole or not at all.

JSON is UTF-8, names of files are bytes: what of a path is no UTF-8 stands in it as an escape.
"""

import json
from pathlib import Path

from smdaemon.confinement import confined, folder_of, read_regular
from smdaemon.durable import write_atomically
from smdaemon.jobs.job import Job
from smdaemon.jobs.messages import error_message, set_time
from smdaemon.jobs.rows import encodable
from smdaemon.proto.mapping import message_to_dict, request_ending
from smdaemon.proto.v1 import ExportRequest, ExportResult

RESULT_ENDING = ".export.result.json"


def result_path(request: Path) -> Path:
    """Where the result of the request file `request` is written."""
    ending = request_ending(request.name)
    if ending is None:
        raise ValueError(f"{request.name!r} is not the name of a request file")
    return request.with_name(request.name.removesuffix(ending) + RESULT_ENDING)


def write_result(job: Job, root: Path | None = None) -> None:
    """Write the result file of an ended job, beneath `root` if there is one.

    OSError where the folder of the request cannot be written, DropError where a link would lead elsewhere.
    """
    path = Path(job.result_path)
    with folder_of(path, root) as folder:
        write_atomically(folder / path.name, result_text(job).encode())


def has_result(job: Job, root: Path | None = None) -> bool:
    """Whether the result file of an ended job says what became of it. Raises as `write_result`."""
    try:
        with confined(root):
            return read_regular(Path(job.result_path)) == result_text(job).encode()
    except FileNotFoundError:
        return False


def result_text(job: Job) -> str:
    """What the result file of an ended job says."""
    result = ExportResult(
        job=job.id,
        model=job.model,
        source=encodable(job.source),
        state=job.state,
        export_dir=encodable(job.export_dir),
        tensors=job.tensors,
        bytes=job.bytes_total,
        seconds=round(max(0.0, job.updated_at - job.created_at), 6),
    )
    if job.version is not None:
        result.version = job.version
    set_time(result.finished_at, job.updated_at)
    if job.error is not None:
        result.error.CopyFrom(error_message(job.error))
    for mode in ExportRequest.FromString(job.request).modes if job.export_dir else ():
        result.mode_dirs[mode] = result.export_dir
    return json.dumps(message_to_dict(result), indent=2) + "\n"
