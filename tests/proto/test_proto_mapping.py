"""Messages as dicts and back; request texts."""

import json

import pytest
from google.protobuf import json_format
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.proto import v1
from smdaemon.proto.mapping import (
    dict_to_message,
    message_from_protobuf,
    message_to_dict,
    parse_json,
    request_from_json,
    request_from_protobuf,
    request_from_toml,
)

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
int64 = st.integers(-(2**63), 2**63 - 1)
errors = st.builds(v1.Error, code=texts, message=texts, remedy=texts, retryable=st.booleans())
requests = st.builds(
    v1.ExportRequest,
    model=texts,
    version=st.none() | int64,
    tags=st.lists(texts, max_size=3),
    rename=st.dictionaries(texts, texts, max_size=3),
    shards=st.integers(-(2**31), 2**31 - 1),
)


@st.composite
def jobs(draw):
    """Jobs with and without the fields that may be unset."""
    job = v1.Job(
        id=draw(int64),
        model=draw(texts),
        version=draw(st.none() | int64),
        bytes_per_second=draw(st.floats(allow_nan=False, allow_infinity=False)),
        error=draw(st.none() | errors),
        history=[v1.Transition(seq=seq, state=draw(texts)) for seq in range(draw(st.integers(0, 3)))],
    )
    if draw(st.booleans()):
        job.created_at.seconds = draw(st.integers(-62135596800, 253402300799))
        job.created_at.nanos = draw(st.integers(0, 999_999_999))
    return job


@settings(deadline=None, max_examples=60)
@given(jobs())
def test_job_round_trip(job):
    """A message becomes a dict, JSON, a dict and the same message."""
    assert dict_to_message(parse_json(json.dumps(message_to_dict(job)).encode()), v1.Job) == job


@settings(deadline=None, max_examples=60)
@given(requests)
def test_protobufs_own_json_is_understood(request):
    """What protobuf's own JSON writes (64-bit numbers as strings) is read as the same request."""
    text = json_format.MessageToJson(request, preserving_proto_field_name=True)
    assert request_from_json(text.encode()) == request


def test_unset_and_default_fields():
    """Fields with presence are left out while unset; the others are always there, in declaration order."""
    data = message_to_dict(v1.ExportRequest(version=0))
    assert data["version"] == 0
    present = {"strip_default_attrs", "as_text", "prune"}
    assert list(data) == [field.name for field in v1.ExportRequest.DESCRIPTOR.fields if field.name not in present]
    assert "version" not in message_to_dict(v1.ExportRequest())
    assert "error" not in message_to_dict(v1.Job())
    assert message_to_dict(v1.Job())["history"] == []


def test_map_keys_are_sorted():
    """Equal messages give equal texts, whatever the order in which a map was filled."""
    assert list(message_to_dict(v1.Status(jobs={"b": 1, "a": 2}))["jobs"]) == ["a", "b"]


def test_not_finite_numbers():
    """A number that JSON cannot hold becomes a string, so that the text stays JSON."""
    assert message_to_dict(v1.Job(bytes_per_second=float("nan")))["bytes_per_second"] == "nan"


def test_toml_request():
    """A request file may be TOML."""
    request = request_from_toml(b'source = "a.npz"\nversion = 41\ntags = ["serve"]\n[rename]\n"a/b" = "c"\n')
    assert request == v1.ExportRequest(source="a.npz", version=41, tags=["serve"], rename={"a/b": "c"})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"sourc": "a"}', "unknown field 'sourc'; did you mean 'source'"),
        (b'{"zzz": 1}', "unknown field 'zzz'; the fields are model, source"),
        (b"[]", "expected an object, got []"),
        (b'{"version": "1x"}', "version: expected a whole number, got '1x'"),
        (b'{"version": "--5"}', "version: expected a whole number, got '--5'"),
        (b'{"version": "-"}', "version: expected a whole number, got '-'"),
        (b'{"version": true}', "version: expected a whole number, got True"),
        (b'{"version": 1.0}', "version: expected a whole number, got 1.0"),
        (b'{"version": 9223372036854775808}', "version: 9223372036854775808 is outside"),
        (b'{"shards": "1"}', "shards: expected a whole number"),
        (b'{"tags": "serve"}', "tags: expected a list, got 'serve'"),
        (b'{"tags": [1]}', "tags[0]: expected a string, got 1"),
        (b'{"tags": [null]}', "tags[0]: expected a string, got null"),
        (b'{"rename": []}', "rename: expected an object"),
        (b'{"rename": {"a": 1}}', "rename.a: expected a string, got 1"),
        (b'{"source": "\\ud800"}', "source: the string is not valid Unicode"),
        (b'{"model": "a", "model": "b"}', "the key 'model' stands twice"),
        (b'{"shards": NaN}', "not a JSON number: NaN"),
        (b'{"shards": ' + b"9" * 5000 + b"}", "a number of 5000 digits"),
        (b"[" * 100_000, "nested too deeply"),
        (b"\xff", "byte 0 is not UTF-8"),
        (b"{", "not valid JSON: expecting property name"),
    ],
)
def test_bad_json_requests(text, message):
    """Each mistake is named with its field and what stands there."""
    with pytest.raises(DropError) as caught:
        request_from_json(text)
    assert caught.value.code == "request-invalid"
    assert message in caught.value.message
    assert len(caught.value.message) < 500  # the list of all fields is the longest


@pytest.mark.parametrize("text", [b"a = ", b"\xff", b"x = 2026-01-01", b"version = " + b"9" * 5000])
def test_bad_toml_requests(text):
    """A TOML text that is none, or holds what no field takes, is refused."""
    with pytest.raises(DropError) as caught:
        request_from_toml(text)
    assert caught.value.code == "request-invalid"


@pytest.mark.parametrize("data", [b"\xff", b"\xf8\x3f\x01", v1.Event(seq=1).SerializeToString()])
def test_bad_protobuf_requests(data):
    """Bytes that are no ExportRequest, or hold a field that this version does not know, are refused."""
    with pytest.raises(DropError) as caught:
        request_from_protobuf(data)
    assert caught.value.code == "request-invalid"


FIELD_99 = b"\x98\x06\x01"


@pytest.mark.parametrize(
    ("message", "told"),
    [
        (v1.ExportRequest.FromString(FIELD_99), "unknown field number 99"),
        (
            v1.ExportRequest(modes={"train": v1.ModeGraph(), "eval": v1.ModeGraph.FromString(FIELD_99)}),
            "modes.eval: unknown field",
        ),
        (
            v1.ModelList(models=[v1.Model(), v1.Model(error=v1.Error.FromString(FIELD_99))]),
            "models[1].error: unknown field number 99",
        ),
    ],
    ids=["at the top", "in a map", "in a list and in one"],
)
def test_a_protobuf_field_that_is_not_known_is_refused_wherever_it_stands(message, told):
    """Its number and its place are told."""
    with pytest.raises(DropError) as caught:
        message_from_protobuf(message.SerializeToString(), type(message))
    assert caught.value.code == "request-invalid"
    assert told in caught.value.message


def test_nulls_and_times():
    """Null counts as unset; a time that is none is refused."""
    assert dict_to_message({"version": None, "error": None}, v1.Job) == v1.Job()
    with pytest.raises(DropError, match="created_at: expected a time"):
        dict_to_message({"created_at": "yesterday"}, v1.Job)


def test_nested_messages_name_their_path():
    """An error deep in a message names the way to it."""
    with pytest.raises(DropError, match=r"history\[0\]\.seq: expected a whole number"):
        dict_to_message({"history": [{"seq": []}]}, v1.Job)
    assert dict_to_message({"error": {}}, v1.Job).HasField("error")


def test_maps_of_messages_go_both_ways():
    """A map whose values are messages is an object of objects; a mistake inside names its place."""
    data = {"signatures": {"serving_default": {"inputs": {"x": "x:0"}, "outputs": {"y": "y:0"}, "method": "predict"}}}
    request = dict_to_message(data, v1.ExportRequest)
    assert request.signatures["serving_default"].inputs["x"] == "x:0"
    assert message_to_dict(request)["signatures"] == data["signatures"]
    with pytest.raises(DropError, match=r"signatures\.serving_default\.method"):
        dict_to_message({"signatures": {"serving_default": {"method": 3}}}, v1.ExportRequest)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf"), True, "1"])
def test_what_is_no_number_of_64_bits_is_refused(value):
    """A whole number that no float holds, too."""
    with pytest.raises(DropError) as refused:
        dict_to_message({"metrics": {"loss": value}}, v1.ExportRequest)
    assert refused.value.code == "request-invalid"
