"""The tables of codes are closed, without doubles, and say what the contract says."""

from __future__ import annotations

from enum import StrEnum

import pytest

from natsbridge.schemas import codes
from natsbridge.schemas.codes import CLOSE_CODES, CloseCode, ErrorCode, PatternReason, RejectReason

ROWS = {
    1000: "", 1001: "GOING_AWAY", 1002: "PROTOCOL_ERROR", 1007: "INVALID_UTF8",
    1009: "MESSAGE_TOO_BIG", 1011: "INTERNAL_ERROR", 1013: "TRY_AGAIN_LATER",
    4000: "HEARTBEAT_TIMEOUT", 4001: "TOKEN_EXPIRED", 4002: "SLOW_CONSUMER", 4003: "RECONNECT",
    4500: "INVALID_TOKEN", 4501: "REVOKED", 4502: "REPLACED", 4503: "TOO_MANY_ERRORS",
    4504: "NOT_AUTHENTICATED",
}  # fmt: skip


def test_the_close_codes_are_those_of_the_contract() -> None:
    """Code and name of every row, and no row beside them."""
    assert {code: row.name for code, row in CLOSE_CODES.items()} == ROWS
    assert all(code == row.code for code, row in CLOSE_CODES.items())


def test_every_close_code_is_in_the_table() -> None:
    """A row that is defined and not listed would be a code that nobody can look up."""
    defined = [value for value in vars(codes).values() if isinstance(value, CloseCode)]
    assert sorted(defined, key=lambda row: row.code) == list(CLOSE_CODES.values())
    assert len({row.name for row in defined}) == len(defined)


def test_a_client_comes_back_below_4500_only() -> None:
    """From 4500 on a client must not reconnect; below it does."""
    assert {row.name for row in CLOSE_CODES.values() if not row.reconnect} == {
        "INVALID_TOKEN",
        "REVOKED",
        "REPLACED",
        "TOO_MANY_ERRORS",
        "NOT_AUTHENTICATED",
    }


def test_a_reason_fits_into_a_close_frame() -> None:
    """A close frame has 123 bytes for its reason (RFC 6455 §5.5)."""
    assert all(len(row.name.encode()) <= 123 for row in CLOSE_CODES.values())


@pytest.mark.parametrize(
    ("table", "names"),
    [
        (
            ErrorCode,
            "RATE_LIMIT_EXCEEDED INVALID_MESSAGE_TYPE INVALID_MESSAGE_FORMAT SUBSCRIPTION_FAILED "
            "MESSAGE_TOO_LARGE CONNECTION_LIMIT_EXCEEDED INTERNAL_ERROR NOT_PERMITTED "
            "COMMAND_FAILED SERVICE_UNAVAILABLE TOKEN_INVALID",
        ),
        (PatternReason, "UNKNOWN_EVENT NOT_PERMITTED MALFORMED_PATTERN TOO_MANY_SUBSCRIPTIONS"),
        (
            RejectReason,
            "MALFORMED_SUBJECT UNKNOWN_EVENT AUDIENCE_NOT_ALLOWED INVALID_JSON INVALID_ENVELOPE "
            "TYPE_MISMATCH RESOURCE_MISMATCH INVALID_DATA TOO_LARGE NOT_FROM_STREAM NOT_DURABLE",
        ),
    ],
)
def test_the_other_tables(table: type[StrEnum], names: str) -> None:
    """Each is closed, and its values are its names."""
    assert [each.value for each in table] == names.split()
    assert all(each.name == each.value for each in table)
