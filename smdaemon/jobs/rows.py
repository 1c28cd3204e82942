"""Between a `Job` and its row of the journal's table `jobs`. Pure."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any, cast

from smdaemon.jobs.job import Job, JobError, NewJob, Origin, Publication
from smdaemon.jobs.states import State

# In the order of `to_job`'s parameters.
COLUMNS = (
    "id, model, state, reason, origin, source, identity, format, request, result_path, drop_order, version, export_dir,"
    " tensors, bytes_total, attempts, retry_at, created_at, updated_at,"
    " error_code, error_message, error_remedy, error_retryable, restores, validator_output, publication, content"
)


def encodable(text: str) -> str:
    r"""The text with each lone surrogate (a byte of a file name that is not UTF-8) shown as `\udc80`-like escape.

    SQLite and protobuf take UTF-8 only, and a message may name such a file.
    """
    return text.encode("utf-8", "backslashreplace").decode()


def to_row(job: Job) -> dict[str, Any]:
    """The columns by name."""
    error = job.error or JobError("", "", "")
    return {
        "id": job.id,
        "model": encodable(job.model),
        "state": job.state.value,
        "reason": encodable(job.reason),
        "origin": job.origin,
        "source": os.fsencode(job.source),
        "identity": encodable(job.identity),
        "format": encodable(job.format),
        "request": job.request,
        "result_path": os.fsencode(job.result_path),
        "drop_order": job.order,
        "version": job.version,
        "export_dir": os.fsencode(job.export_dir),
        "tensors": job.tensors,
        "bytes_total": job.bytes_total,
        "attempts": job.attempts,
        "retry_at": job.retry_at,
        "created_at": job.created_at,
        "updated_at": job.updated_at,
        "error_code": error.code,
        "error_message": encodable(error.message),
        "error_remedy": encodable(error.remedy),
        "error_retryable": error.retryable,
        "restores": job.restores,
        "validator_output": encodable(job.validator_output),
        "publication": "" if job.publication is None else _publication_text(job.publication),
        "content": encodable(job.content),
    }


def to_job(row: tuple[Any, ...]) -> Job:
    """The job of a row selected by `COLUMNS`."""
    (job_id, model, state, reason, origin, source, identity, format_, request, result_path, order, version) = row[:12]
    (export_dir, tensors, bytes_total, attempts, retry_at, created_at, updated_at) = row[12:19]
    (code, message, remedy, retryable, restores, validator_output, publication, content) = row[19:]
    return Job(
        id=job_id,
        model=model,
        state=State(state),
        reason=reason,
        origin=cast("Origin", origin),
        source=os.fsdecode(source),
        identity=identity,
        format=format_,
        request=request,
        result_path=os.fsdecode(result_path),
        order=order,
        version=version,
        export_dir=os.fsdecode(export_dir),
        tensors=tensors,
        bytes_total=bytes_total,
        attempts=attempts,
        retry_at=retry_at,
        created_at=created_at,
        updated_at=updated_at,
        error=JobError(code, message, remedy, bool(retryable)) if code else None,
        restores=restores,
        validator_output=validator_output,
        publication=Publication(*json.loads(publication)) if publication else None,
        content=content,
    )


def metrics_text(metrics: Mapping[str, float]) -> str:
    """Metrics as the journal keeps them: a JSON object, the same for equal metrics."""
    return json.dumps({encodable(name): metrics[name] for name in sorted(metrics)}, allow_nan=False)


def _publication_text(publication: Publication) -> str:
    return f"[{json.dumps(publication.identity)}, {metrics_text(publication.metrics)}]"


def acceptance_key(new: NewJob) -> bytes:
    """16 bytes that are the same for the same model, source, identity and request only.

    A request file is told by its own name, which that of its result is made of, and identity: what it leads to may be another file by
    the next start.
    """
    digest = hashlib.blake2b(digest_size=16)
    asked = (new.result_path, b"") if new.result_path else (new.source, new.request)
    for part in (encodable(new.model).encode(), os.fsencode(asked[0]), encodable(new.identity).encode(), asked[1]):
        # the length in front keeps ("ab", "c") and ("a", "bc") apart
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()
