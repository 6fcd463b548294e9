"""What is to be done about each message: decisions as values, without a connection."""

from __future__ import annotations

import json
from typing import Any

import pytest

from natsbridge.bridge.identity.grants import Grants, Rules
from natsbridge.bridge.sessions.handlers import (
    Answer,
    Ask,
    Change,
    Effect,
    Nothing,
    Renew,
    View,
    handle,
)
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.codes import ErrorCode, PatternReason
from natsbridge.schemas.commands import parse_client_message
from natsbridge.schemas.cursors import Cursor
from natsbridge.schemas.patterns import Pattern
from natsbridge.schemas.replies import (
    Error,
    Pong,
    ResumeCompleted,
    SubscriptionAcknowledged,
    UnsubscriptionAcknowledged,
)

CATALOGUE = Catalogue.load()
EVERYTHING = Rules.parse([">"], [])


def view(
    *held: str,
    allow: tuple[str, ...] = (">",),
    deny: tuple[str, ...] = (),
    command: Rules = EVERYTHING,
    **limits: int,
) -> View:
    """A session that holds these patterns, under these grants."""
    bounds = {"max_subscriptions": 5, "max_interests": 1000, "max_message_size": 65_536}
    patterns = {text: Pattern.parse(text) for text in held}
    grants = Grants(Rules.parse(list(allow), list(deny)), command, CATALOGUE)
    units = sum(len(grants.resolve(each, CATALOGUE)) for each in patterns.values())
    return View(
        patterns=patterns,
        grants=grants,
        catalogue=CATALOGUE,
        **{**bounds, "units": units, **limits},
    )


def act(text: str, given: View | None = None) -> Effect:
    """What is to be done about this message."""
    return handle(parse_client_message(text), given or view())


def subscribe(*events: str, given: View) -> tuple[dict[str, Pattern], Any, list[Any]]:
    """Patterns from then on, the acknowledgement's data, and what is said after it."""
    names = ",".join(f'"{each}"' for each in events)
    effect = act(f'{{"type":"subscribe","id":"m","data":{{"events":[{names}]}}}}', given)
    assert isinstance(effect, Change)
    first, *rest = effect.replies
    assert isinstance(first, SubscriptionAcknowledged)
    assert all(reply.reply_to == "m" for reply in effect.replies)
    return effect.patterns, first.data, rest


@pytest.mark.parametrize("ping_id", ['"p"', "7", "null"])
def test_a_ping_is_answered(ping_id: str) -> None:
    """With its ``pingId`` and its ``id``."""
    effect = act(f'{{"type":"ping","id":"m","data":{{"pingId":{ping_id}}}}}')
    assert isinstance(effect, Answer)
    assert isinstance(effect.reply, Pong)
    assert effect.reply.data.pingId == {'"p"': "p", "7": 7, "null": None}[ping_id]
    assert effect.reply.reply_to == "m"


def test_a_heartbeat_is_not_answered() -> None:
    """It is a sign of life and no more."""
    assert act('{"type":"heartbeat"}') == Nothing()


class TestSubscribe:
    """Wishes, accepted one by one."""

    def test_what_is_accepted_is_told_as_it_was_written(self) -> None:
        """``effective`` names the types that the wishes come to, sorted."""
        patterns, data, rest = subscribe("upload.*", "review.updated.77", given=view())
        assert list(patterns) == ["upload.*", "review.updated.77"]
        assert data.events == ["upload.*", "review.updated.77"]
        assert data.effective == [
            "review.updated",
            "upload.cancelled",
            "upload.completed",
            "upload.error",
            "upload.progress",
        ]
        assert (data.invalid_events, data.reasons, rest) == ([], {}, [])

    @pytest.mark.parametrize(
        ("pattern", "reason"),
        [
            ("upload..x", PatternReason.MALFORMED_PATTERN),
            ("review.updated.77.>", PatternReason.MALFORMED_PATTERN),
            ("nothing.here", PatternReason.UNKNOWN_EVENT),
            ("upload.updated", PatternReason.UNKNOWN_EVENT),
            ("system.notification", PatternReason.NOT_PERMITTED),
            ("file.ready.9", PatternReason.NOT_PERMITTED),
        ],
    )
    def test_each_refusal_has_its_reason(self, pattern: str, reason: PatternReason) -> None:
        """The others of the same message are accepted all the same."""
        given = view(allow=("upload.*", "review.*", "file.ready"), deny=("file.ready.9",))
        patterns, data, rest = subscribe("upload.error", pattern, given=given)
        assert list(patterns) == data.events == ["upload.error"]
        assert data.invalid_events == [pattern]
        assert data.reasons == {pattern: reason}
        assert rest == []

    def test_when_nothing_is_accepted_an_error_follows(self) -> None:
        """SUBSCRIPTION_FAILED with the reasons, behind the acknowledgement."""
        patterns, data, rest = subscribe("nothing.here", given=view("upload.*"))
        assert list(patterns) == ["upload.*"]
        assert data.events == []
        (failed,) = rest
        assert isinstance(failed, Error)
        assert failed.data.code is ErrorCode.SUBSCRIPTION_FAILED
        assert failed.data.details == {"reasons": {"nothing.here": "UNKNOWN_EVENT"}}

    def test_an_empty_wish_fails(self) -> None:
        """Nothing asked for is nothing accepted."""
        _, _, rest = subscribe(given=view())
        assert [each.data.code for each in rest] == [ErrorCode.SUBSCRIPTION_FAILED]

    def test_a_wish_is_what_the_grants_leave_of_it(self) -> None:
        """A wide wish is accepted when some of it is permitted, and says what it comes to."""
        _, data, _ = subscribe(">", given=view(allow=("upload.error", "review.*")))
        assert data.effective == [
            "review.created", "review.deleted", "review.updated", "upload.error",
        ]  # fmt: skip

    def test_what_is_held_already_is_accepted_again(self) -> None:
        """The same pattern twice, in one message or in two, is held once."""
        patterns, data, _ = subscribe("upload.*", "upload.*", given=view("upload.*"))
        assert list(patterns) == ["upload.*"]
        assert data.events == ["upload.*"]

    def test_the_number_of_patterns_has_a_bound(self) -> None:
        """What is over it is refused by name; what was held before stays accepted."""
        given = view("upload.*", "review.*", max_subscriptions=3)
        patterns, data, _ = subscribe("file.*", "upload.*", "system.*", given=given)
        assert list(patterns) == ["upload.*", "review.*", "file.*"]
        assert data.events == ["file.*", "upload.*"]
        assert data.reasons == {"system.*": PatternReason.TOO_MANY_SUBSCRIPTIONS}

    def test_what_patterns_come_to_has_a_bound(self) -> None:
        """A pattern that would need too many interests is refused, a smaller one after it not."""
        given = view("review.*", max_interests=5)
        _, data, _ = subscribe("upload.*", "file.*", given=given)
        assert data.events == ["file.*"]
        _, data, _ = subscribe("upload.*", "file.*", given=view("review.*", units_left=3))
        assert data.events == ["file.*"]
        assert data.reasons == {"upload.*": PatternReason.TOO_MANY_SUBSCRIPTIONS}

    def test_the_session_is_not_changed_by_a_decision(self) -> None:
        """The new patterns are a value of their own: whoever applies them may fail to."""
        given = view("upload.*")
        subscribe("review.*", given=given)
        assert list(given.patterns) == ["upload.*"]

    def test_an_answer_that_would_be_too_large_changes_nothing(self) -> None:
        """An answer repeats the patterns; over the size of a message it is an error instead."""
        text = ",".join(f'"nothing.here{number}"' for number in range(100))
        effect = act(
            f'{{"type":"subscribe","id":"m","data":{{"events":[{text}]}}}}',
            view(max_message_size=1024),
        )
        assert isinstance(effect, Answer)
        assert isinstance(effect.reply, Error)
        assert effect.reply.data.code is ErrorCode.MESSAGE_TOO_LARGE
        assert effect.reply.reply_to == "m"


class TestStoredEvents:
    """``cursor`` and ``history``: read, and passed on to whoever replays."""

    def change(self, **data: Any) -> Change:
        effect = act(json.dumps({"type": "subscribe", "id": "m", "data": data}))
        assert isinstance(effect, Change)
        return effect

    def test_without_them_nothing_is_replayed(self) -> None:
        """A plain ``subscribe`` is about what is to come."""
        change = self.change(events=["review.*"])
        assert (change.cursor, change.history) == (None, 0)

    def test_a_cursor_is_passed_on(self) -> None:
        """Alone: what comes after it is more than the last so many events."""
        change = self.change(events=["review.*"], cursor="5f-7", history=50)
        assert (change.cursor, change.history) == (Cursor("5f", 7, 7), 0)
        assert list(change.patterns) == ["review.*"]

    @pytest.mark.parametrize("cursor", ["", "no cursor at all", "é"])
    @pytest.mark.parametrize("events", [["review.*"], ["nosuch.event"]])
    def test_what_is_no_cursor_is_told(self, cursor: str, events: list[str]) -> None:
        """It does not refuse the subscription: ``resume.completed`` tells, behind the answer."""
        change = self.change(events=events, cursor=cursor, history=50)
        assert (change.cursor, change.history) == (None, 0)
        told = change.replies[-1]
        assert isinstance(told, ResumeCompleted)
        assert (told.data.recovered, told.data.reason) == (False, "CURSOR_MALFORMED")
        assert [reply.reply_to for reply in change.replies] == ["m"] * len(change.replies)

    def test_a_number_of_events_is_passed_on(self) -> None:
        """With the patterns that it is for."""
        change = self.change(events=["review.*"], history=50)
        assert (change.history, list(change.patterns)) == (50, ["review.*"])


class TestPolicy:
    """How often ephemeral events may come: kept or refused type by type."""

    def judged(self, policy: object, *events: str) -> tuple[Change, dict[str, Any]]:
        """The change, and what the acknowledgement says of the policy."""
        message = {"type": "subscribe", "id": "m", "data": {"events": events, "policy": policy}}
        effect = act(json.dumps(message))
        assert isinstance(effect, Change)
        answer = effect.replies[0]
        assert isinstance(answer, SubscriptionAcknowledged)
        assert answer.data.policy is not None
        return effect, answer.data.policy

    def test_a_pace_is_kept_and_told(self) -> None:
        """As it is kept, with what the client left to the bridge."""
        change, told = self.judged({"upload.progress": {"max_rate": 5}}, "upload.*")
        assert change.paces == {"upload.progress": 5}
        assert told == {
            "applied": {"upload.progress": {"max_rate": 5, "keep": "latest"}},
            "refused": {},
        }

    def test_null_takes_a_pace_back(self) -> None:
        """Also of a type that had none."""
        change, told = self.judged({"upload.progress": None}, "upload.*")
        assert change.paces == {"upload.progress": None}
        assert told == {"applied": {"upload.progress": None}, "refused": {}}

    @pytest.mark.parametrize(
        ("event_type", "pace", "reason"),
        [
            ("nothing.here", {"max_rate": 5}, "UNKNOWN_EVENT"),
            ("upload.*", {"max_rate": 5}, "UNKNOWN_EVENT"),
            ("nothing.here", None, "UNKNOWN_EVENT"),
            ("review.updated", {"max_rate": 5}, "DURABLE"),
            ("review.updated", None, "DURABLE"),
            ("upload.progress", {}, "MALFORMED"),
            ("upload.progress", [], "MALFORMED"),
            ("upload.progress", 5, "MALFORMED"),
            ("upload.progress", {"max_rate": 0}, "MALFORMED"),
            ("upload.progress", {"max_rate": -1}, "MALFORMED"),
            ("upload.progress", {"max_rate": 1001}, "MALFORMED"),
            ("upload.progress", {"max_rate": "5"}, "MALFORMED"),
            ("upload.progress", {"max_rate": True}, "MALFORMED"),
            ("upload.progress", {"max_rate": None}, "MALFORMED"),
            ("upload.progress", {"max_rate": 5, "keep": "first"}, "MALFORMED"),
        ],
    )
    def test_each_refusal_has_its_reason(self, event_type: str, pace: Any, reason: str) -> None:
        """The other types of the same message are kept to their pace all the same."""
        change, told = self.judged(
            {"file.processing": {"max_rate": 0.01}, event_type: pace}, "review.*"
        )
        assert told["refused"] == {event_type: reason}
        assert change.paces == {"file.processing": 0.01}
        assert list(change.patterns) == ["review.*"]

    def test_a_policy_alone_is_no_failure(self) -> None:
        """``events`` may be empty, to change paces and nothing else."""
        change, _ = self.judged({"upload.progress": {"max_rate": 5}})
        assert [reply.type for reply in change.replies] == ["subscription.acknowledged"]
        assert change.patterns == {}

    def test_events_of_which_none_is_accepted_fail_with_a_policy_too(self) -> None:
        """The pace holds all the same, and the answer says so."""
        change, told = self.judged({"upload.progress": {"max_rate": 5}}, "nothing.here")
        assert [reply.type for reply in change.replies] == ["subscription.acknowledged", "error"]
        assert told["applied"].keys() == {"upload.progress"}
        assert change.paces == {"upload.progress": 5}

    def test_a_long_unknown_type_is_cut(self) -> None:
        """What a client wrote as a type is repeated in part only."""
        _, told = self.judged({"x" * 1000: None}, "review.*")
        (name,) = told["refused"]
        assert len(name) == 64


def test_unsubscribing_takes_patterns_as_they_were_written() -> None:
    """What is named goes, what is not held is no error, what is left stays."""
    effect = act(
        '{"type":"unsubscribe","id":"m","data":{"events":["upload.*","other.thing"]}}',
        view("upload.*", "upload.error", "review.*"),
    )
    assert isinstance(effect, Change)
    assert list(effect.patterns) == ["upload.error", "review.*"]
    (reply,) = effect.replies
    assert isinstance(reply, UnsubscriptionAcknowledged)
    assert reply.data.events == ["upload.*", "other.thing"]
    assert reply.reply_to == "m"


class TestCommands:
    """``upload.cancel``."""

    def cancel(self, upload_id: str, given: View) -> Effect:
        return act(
            f'{{"type":"upload.cancel","id":"m","data":{{"upload_id":"{upload_id}"}}}}', given
        )

    def test_a_permitted_command_is_asked_of_its_service(self) -> None:
        """With the id as it is and as a subject token."""
        effect = self.cancel("a.b", view())
        assert isinstance(effect, Ask)
        assert (effect.command, effect.resource_id, effect.resource) == (
            "upload.cancel",
            "a.b",
            "a=2Eb",
        )
        assert effect.message.id == "m"

    @pytest.mark.parametrize(
        ("rules", "upload_id", "permitted"),
        [
            (Rules(), "7", False),
            (Rules.parse(["upload.cancel.7"], []), "7", True),
            (Rules.parse(["upload.cancel.7"], []), "8", False),
            (Rules.parse([">"], ["*.*.7"]), "7", False),
        ],
    )
    def test_grants_of_commands_are_their_own(
        self, rules: Rules, upload_id: str, permitted: bool
    ) -> None:
        """What a token may see says nothing of what it may do."""
        effect = self.cancel(upload_id, view(command=rules))
        assert isinstance(effect, Ask) is permitted
        if isinstance(effect, Answer):
            assert isinstance(effect.reply, Error)
            assert effect.reply.data.code is ErrorCode.NOT_PERMITTED
            assert effect.reply.reply_to == "m"

    def test_an_id_that_fits_into_no_subject_is_refused(self) -> None:
        """Longer than a subject allows once it is encoded: the field is named."""
        effect = self.cancel("." * 43, view())
        assert isinstance(effect, Answer)
        assert isinstance(effect.reply, Error)
        assert effect.reply.data.code is ErrorCode.INVALID_MESSAGE_FORMAT
        assert effect.reply.data.message.startswith("data.upload_id")


def test_a_new_token_is_for_the_session_to_check() -> None:
    """``auth.refresh`` takes I/O, so it is an effect."""
    effect = act('{"type":"auth.refresh","id":"m","data":{"token":"t"}}')
    assert isinstance(effect, Renew)
    assert effect.message.data.token == "t"


def test_authenticating_twice_is_refused() -> None:
    """Who is known already is told what to use instead."""
    effect = act('{"type":"authenticate","id":"m","data":{"token":"t"}}')
    assert isinstance(effect, Answer)
    assert isinstance(effect.reply, Error)
    assert effect.reply.data.code is ErrorCode.NOT_PERMITTED
    assert "auth.refresh" in effect.reply.data.message
