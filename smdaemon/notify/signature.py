"""Signatures of webhooks, as the Standard Webhooks specification has them: the symmetric ones, `v1`. Pure.

https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable

from smdaemon.errors import ConfigError

PREFIX = "whsec_"
_KEY_BYTES = 24
"""A key has at least so many."""


def keys_of(text: str) -> list[bytes]:
    """The keys that a secret file holds, one a line: `whsec_` and base64. ConfigError `secret-invalid`."""
    keys = [_key(line.strip()) for line in text.splitlines() if line.strip()]
    if not keys:
        raise ConfigError("secret-invalid", "the secret file holds no secret")
    return keys


def _key(line: str) -> bytes:
    try:
        key = base64.b64decode(line.removeprefix(PREFIX), validate=True)
    except binascii.Error:
        # the text is not shown: it may be a secret all the same
        raise ConfigError("secret-invalid", f"the secret file holds a line that is not {PREFIX} and base64") from None
    if len(key) < _KEY_BYTES:
        message = f"the secret file holds a secret of {len(key)} bytes, {_KEY_BYTES} are the least"
        raise ConfigError("secret-invalid", message)
    return key


def signed_headers(keys: Iterable[bytes], event_id: str, unix_seconds: int, body: bytes) -> dict[str, str]:
    """The headers that prove who sent `body` and when; with several keys, so that each of them verifies it."""
    signed = b".".join((event_id.encode(), str(unix_seconds).encode(), body))
    signatures = [base64.b64encode(hmac.digest(key, signed, hashlib.sha256)).decode() for key in keys]
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(unix_seconds),
        "webhook-signature": " ".join(f"v1,{signature}" for signature in signatures),
    }
