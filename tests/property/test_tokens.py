"""The parts of a token, read as strictly as PyJWT reads them."""

from __future__ import annotations

from base64 import urlsafe_b64encode

import jwt
from hypothesis import example, given
from hypothesis import strategies as st

from natsbridge.bridge.identity.tokens import _Jws

ODD = b"+/=!\n\xff"
segments = st.one_of(
    st.binary(max_size=40),
    st.binary(max_size=40).map(urlsafe_b64encode),
    st.binary(max_size=40).map(lambda data: urlsafe_b64encode(data).rstrip(b"=")),
    st.lists(st.sampled_from(b"ABab01-_" + ODD), max_size=12).map(bytes),
)


def read(jws: type[jwt.PyJWS], segment: bytes) -> bytes | None:
    try:
        return jws._decode_base64url_segment(segment, "payload")
    except jwt.DecodeError:
        return None


@given(segments)
@example(b"")
@example(b"QQ")
@example(b"QR")
@example(b"QQ==")
@example(b"Q")
@example(b"Q!Q")
@example(b"QQ\n")
@example(b"-_-_")
@example(b"+/+/")
def test_a_segment_is_what_pyjwt_takes_it_for(segment: bytes) -> None:
    """The same bytes, or refused as well: nothing outside the alphabet, one way to write each."""
    assert read(_Jws, segment) == read(jwt.PyJWS, segment)
