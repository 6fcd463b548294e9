"""The tree of exceptions, and the settings that end in one."""

from __future__ import annotations

import re

import pytest

from natsbridge.publishers import EventPublisher, PublishError, PublisherSettings, errors
from natsbridge.schemas.bus import BusSettings, SettingsError


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    """What a caller reads about the errors is what is raised."""

    def names(root: type[Exception]) -> list[str]:
        return [root.__name__, *(name for each in root.__subclasses__() for name in names(each))]

    assert errors.__doc__ is not None
    drawn = re.findall(r"^    (?:│   |    )?(?:[├└]── )?(\w+)", errors.__doc__, re.MULTILINE)
    assert drawn == names(PublishError)


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("BRIDGE_NATS_URL", "http://here"),
        ("BRIDGE_NATS_TIMEOUT", "0"),
        ("BRIDGE_PUBLISH_WITHOUT_STREAM", "maybe"),
        ("BRIDGE_MAX_MESSAGE_SIZE", "12"),
        ("BRIDGE_PUBLISH_DEADLINE", "0"),
        ("BRIDGE_PUBLISH_DEADLINE", "120"),  # the stream would not know the id any more
        ("BRIDGE_SPOOL_MAX_EVENTS", "0"),
        ("BRIDGE_SPOOL_MAX_BYTES", "1"),
    ],
)
def test_a_wrong_variable_is_named(variable: str, value: str) -> None:
    """A service that can't start says which setting is to blame."""
    with pytest.raises(SettingsError, match=variable):
        EventPublisher.from_environment({variable: value})


def test_settings_come_from_the_environment_a_url_or_the_bus() -> None:
    """Three ways to say where the broker is, with the same defaults for the rest."""
    url = "nats://broker:4222"
    for publisher in (
        EventPublisher.from_environment({"BRIDGE_NATS_URL": url}),
        EventPublisher(url),
        EventPublisher(BusSettings(url=(url,))),
    ):
        assert publisher.settings == PublisherSettings(url=(url,))
    with pytest.raises(SettingsError, match="nats://host:port"):
        EventPublisher("broker:4222")


def test_a_spool_goes_with_a_stream_and_has_room_for_events() -> None:
    """What is kept on disk is never sent unstored, and the largest event has room."""
    with pytest.raises(SettingsError, match="BRIDGE_PUBLISH_WITHOUT_STREAM=live"):
        EventPublisher.from_environment(
            {"BRIDGE_SPOOL": "s.db", "BRIDGE_PUBLISH_WITHOUT_STREAM": "live"}
        )
    with pytest.raises(SettingsError, match="BRIDGE_SPOOL_MAX_BYTES"):
        EventPublisher.from_environment(
            {
                "BRIDGE_SPOOL": "s.db",
                "BRIDGE_SPOOL_MAX_BYTES": "100000",
                "BRIDGE_MAX_MESSAGE_SIZE": "65536",
            }
        )
