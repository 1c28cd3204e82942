"""Signatures as the Standard Webhooks specification has them, against the example that its libraries are tested with."""

import base64

import pytest

from smdaemon.errors import ConfigError
from smdaemon.notify.signature import keys_of, signed_headers

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_known_answer():
    """Secret, id, time and body of the specification's own libraries give their signature."""
    headers = signed_headers(keys_of(SECRET), "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_file_may_hold_several_secrets():
    """One a line, with the prefix or without it, while one takes the place of another."""
    key = base64.b64encode(bytes(24)).decode()
    assert keys_of(f"\n{SECRET}\n  {key}  \n") == [*keys_of(SECRET), bytes(24)]


@pytest.mark.parametrize("text", ["", "\n", "whsec_", "whsec_c2hvcnQ=", "not base64!", f"{SECRET} {SECRET}"])
def test_what_is_no_secret_is_refused_without_being_shown(text):
    """The message goes to log and status."""
    with pytest.raises(ConfigError) as caught:
        keys_of(text)
    assert caught.value.code == "secret-invalid"
    assert "MfKQ" not in str(caught.value)
    assert "not base64!" not in str(caught.value)
