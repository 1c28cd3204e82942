"""A move of a job as the event that others are told: CloudEvents 1.0, structured, in JSON. Pure.

https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md
"""

import json
from dataclasses import dataclass
from typing import Any

from smdaemon.jobs.job import Job, Moved
from smdaemon.jobs.messages import to_message
from smdaemon.proto.mapping import message_to_dict

CONTENT_TYPE = "application/cloudevents+json"


@dataclass(frozen=True)
class CloudEvent:
    """What is told of one move. `at` is in unix seconds, `body` is the event as it goes over the wire."""

    id: str
    type: str
    at: float
    job: Job
    body: bytes


def cloud_event(move: Moved, owner: str) -> CloudEvent:
    """The event of a move; `owner` is the name of the daemon's state directory.

    The id is the same however often the event is told, and no other event has it: the place in the event stream alone would
    come again after the journal was moved away or restored, hence the time beside it.
    """
    job = move.job
    message = to_message(job)
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": f"{owner}-{move.seq}-{round(job.updated_at * 1e6)}",
        "source": f"/smdaemon/{owner}",
        "type": f"smdaemon.job.{job.state}",
        "subject": message.model,
        "time": message.updated_at.ToJsonString(),
        "datacontenttype": "application/json",
        "data": message_to_dict(message),
    }
    return CloudEvent(event["id"], event["type"], job.updated_at, job, json.dumps(event).encode())
