"""Device names, policies and io devices as texts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from smdaemon.errors import DropError
from smdaemon.placement import DeviceName, parse_device, parse_policy
from smdaemon.placement.names import LONGEST_NAME

LONG = "a" * (LONGEST_NAME - len("/job:"))
FULL = "/job:worker/replica:0/task:1/device:GPU:2"

CANONICAL = {
    "": "",
    "/": "",
    FULL: FULL,
    "/gpu:0": "/device:GPU:0",
    "/cpu:0": "/device:CPU:0",
    "/GPU:*": "/device:GPU:*",
    "/GPU": "/device:GPU:*",
    "CPU:0": "/device:CPU:0",
    "/device:CPU:*": "/device:CPU:*",
    "/device:gpu:3": "/device:GPU:3",
    "/device:XLA_GPU:0": "/device:XLA_GPU:0",
    "/tpu:1": "/device:TPU:1",
    "/device:TPU_SYSTEM:0": "/device:TPU_SYSTEM:0",
    "/task:3": "/task:3",
    "/task:3/job:ps": "/job:ps/task:3",
    "/job:ps/cpu:0": "/job:ps/device:CPU:0",
    "/job:*/task:0": "/job:*/task:0",
    "job:a//task:01": "/job:a/task:1",
}

REFUSED = (
    "nonsense",
    "/device",
    "/device::0",
    "/device:GPU:x",
    "/device:GPU:-1",
    "/device:GPU:0:1",
    "/device:GPU:99999999999",
    "/device:CPU:0/device:GPU:0",
    "/gpu:0/cpu:0",
    "/job:",
    "/job:a b",
    "/job:a/job:b",
    "/task:one",
    "/task:\u0661",
    "/replica:",
    "loc:@node",
    "/job:a\0",
    "/job:worker/" * 100_000,
)


@pytest.mark.parametrize("text", CANONICAL, ids=repr)
def test_names_are_printed_canonically(text):
    """Parts in order, the type with `device:` and in capitals, a missing index as `*`."""
    assert str(parse_device(text)) == CANONICAL[text]


@pytest.mark.parametrize("text", CANONICAL, ids=repr)
def test_names_are_read_and_printed_as_tensorflow_does(text):
    """tf.DeviceSpec makes the same of them."""
    tf = pytest.importorskip("tensorflow")
    assert tf.DeviceSpec.from_string(text).to_string() == str(parse_device(text))


@pytest.mark.parametrize("text", ["/task:*", "/replica:*/job:a", "/device:GPU"])
def test_names_of_the_runtime_are_read(text):
    """TensorFlow's runtime reads these, DeviceSpec does not: a part left to chance."""
    name = parse_device(text)
    assert (name.task, name.replica, name.index) == (None, None, None)


@pytest.mark.parametrize("text", REFUSED, ids=lambda text: repr(text[:30]))
def test_what_is_no_device_name_is_refused(text):
    """With a code, in a short message, whatever its length."""
    with pytest.raises(DropError) as caught:
        parse_device(text)
    assert caught.value.code == "device-invalid"
    assert len(str(caught.value)) < 4500


def _names():
    indices = st.none() | st.integers(0, 2**31 - 1)
    words = st.from_regex(r"[a-zA-Z][a-zA-Z0-9_]{0,6}", fullmatch=True)
    kinds = (st.sampled_from(["CPU", "GPU", "TPU"]) | words).map(
        lambda kind: kind.upper() if kind.upper() in {"CPU", "GPU"} else kind
    )
    of_type = st.tuples(kinds, indices) | st.just((None, None))
    parts = st.tuples(st.none() | words, indices, indices, of_type)
    return parts.map(lambda p: DeviceName(p[0], p[1], p[2], *p[3]))


@settings(deadline=None, max_examples=80)
@given(_names())
def test_a_printed_name_reads_as_itself(name):
    """For us and for TensorFlow."""
    tf = pytest.importorskip("tensorflow")
    assert parse_device(str(name)) == name
    assert tf.DeviceSpec.from_string(str(name)).to_string() == str(name)


FRAGMENTS = ("/", ":", "*", "job", "replica", "task", "device", "cpu", "GPU", "0", "12", "w", "-", "\0", "@")


@settings(deadline=None, max_examples=200)
@given(st.lists(st.sampled_from(FRAGMENTS), max_size=14).map("".join))
def test_any_text_reads_as_tensorflow_reads_it_or_is_refused(text):
    """Where both accept a text they agree."""
    tf = pytest.importorskip("tensorflow")
    try:
        ours = str(parse_device(text))
    except DropError:
        return
    try:
        theirs = tf.DeviceSpec.from_string(text).to_string()
    except ValueError:
        return
    assert ours == theirs


@settings(deadline=None, max_examples=60)
@given(_names(), _names())
def test_names_merge_as_nested_scopes(outer, inner):
    """DeviceSpec.make_merged_spec: the inner name's parts win."""
    tf = pytest.importorskip("tensorflow")
    theirs = tf.DeviceSpec.from_string(str(outer)).make_merged_spec(tf.DeviceSpec.from_string(str(inner)))
    assert str(outer.merged(inner)) == theirs.to_string()


@pytest.mark.parametrize(
    ("policy", "device", "placed"),
    [
        ("keep", FULL, FULL),
        ("keep", "odd", "odd"),
        ("strip", FULL, ""),
        ("strip", "odd", ""),
        ("soft", FULL, "/device:GPU:2"),
        ("soft", "/job:worker/gpu:1", "/device:GPU:1"),
        ("soft", "/device:CPU:*", "/device:CPU:*"),
        ("soft", "/job:worker/task:1", ""),
        ("remap:/device:GPU:2=/device:CPU:0", FULL, "/device:CPU:0"),
        ("remap:/gpu:*=/cpu:0", FULL, "/device:CPU:0"),
        ("remap:/gpu:*=/cpu:0", "/device:GPU:*", "/device:CPU:0"),
        ("remap:/device:GPU=/cpu:0", "/device:CPU:1", "/device:CPU:1"),
        ("remap:/gpu:1=/cpu:0", "/device:GPU:*", "/device:GPU:*"),
        ("remap:/job:work*/task:?=/task:0", FULL, "/task:0"),
        ("remap:/job:*=", FULL, ""),
        ("remap:/job:*=", "/task:0", "/task:0"),
        ("remap:*=/job:a", "/device:GPU:0", "/job:a"),
        ("remap:*=/job:a", "", ""),
        ("remap:/task:1=/gpu:0,/job:worker=/gpu:1", FULL, "/device:GPU:0"),
        ("remap:/task:0=/gpu:0,/job:worker=/gpu:1", FULL, "/device:GPU:1"),
        ("remap:/device:gpu:2=/gpu:0", FULL, "/device:GPU:0"),
        ("remap:/job:ps=/cpu:0", "/gpu:0", "/gpu:0"),
        ("remap:/replica:0=/cpu:0", FULL, "/device:CPU:0"),
        ("remap:/replica:1=/cpu:0", FULL, FULL),
        ("remap:/device:GPU:1=/cpu:0", FULL, FULL),
        ("remap:/job:ps/gpu:2=/cpu:0", FULL, FULL),
        ("remap:/device:cpu:1=/gpu:0", "/device:CPU:1", "/device:GPU:0"),
        ("remap:/cpu:1=/gpu:0", "/device:CPU:1", "/device:GPU:0"),
        ("remap:/gpu=/cpu:0", FULL, "/device:CPU:0"),
        ("remap:/tpu:1=/gpu:0", "/device:TPU:1", "/device:GPU:0"),
        ("remap:/device:Npu:0=/gpu:0", "/device:Npu:0", "/device:GPU:0"),
        ("remap:" + ",".join(["/task:9=/gpu:0"] * 999 + ["/task:1=/gpu:1"]), "/task:1", "/device:GPU:1"),
        (f"remap:/job:{LONG}=/gpu:0", f"/job:{LONG}", "/device:GPU:0"),
    ],
)
def test_policies_place_devices(policy, device, placed):
    """The first pattern that matches decides; what none matches stays letter by letter."""
    assert parse_policy(policy).placed(device) == placed


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Strip",
        "remap",
        "remap:",
        "remap:/gpu:0",
        "remap:=/gpu:0",
        "remap:/gpu:0=odd",
        "remap:odd=/gpu:0",
        "remap:/=/gpu:0",
        "remap:/gpu:=/gpu:0",
        "remap:/gpu:0/cpu:0=/gpu:0",
        "remap:/gpu:0=/gpu:1,",
        "strip:/gpu:0",
        "strip:/gpu:0=/cpu:0",
        "remap:/gpu:0:1=/cpu:0",
        "remap:/gpu:0=/cpu:0=/cpu:1",
        "remap:" + "/gpu:0=/gpu:1," * 2000 + "/gpu:0=",
        "remap:" + "/job:" + "a" * 5000 + "=",
    ],
    ids=lambda text: repr(text[:30]),
)
def test_what_is_no_policy_is_refused(text):
    """Where it is read, not where it is used; the message says what is wrong."""
    with pytest.raises(DropError, match=r"is no |are more than|matches no device|names more than one") as caught:
        parse_policy(text)
    assert caught.value.code == "device-invalid"


@pytest.mark.parametrize(
    "text", ["keep", "strip", "soft", "remap:/job:ps*=/device:CPU:0,/device:GPU:*=", "remap:*=/device:CPU:0"]
)
def test_a_policy_prints_as_it_was_given(text):
    """So that answers and logs name it."""
    assert str(parse_policy(text)) == text


@pytest.mark.parametrize("policy", ["soft", "remap:*=/cpu:0"])
def test_a_device_that_cannot_be_read_is_refused_where_it_matters(policy):
    """`soft` and `remap` cannot say what becomes of it."""
    with pytest.raises(DropError) as caught:
        parse_policy(policy).placed("odd")
    assert caught.value.code == "device-invalid"
