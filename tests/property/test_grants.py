"""Grants against a model too simple to be wrong: tokens compared one by one, event by event."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from natsbridge.bridge.identity.grants import GrantPolicy, Grants, Key, Rules
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.patterns import Pattern

CATALOGUE = Catalogue.load()
TYPES = CATALOGUE.types
USER = "u=2F1"
RESOURCES = ("77", "78", "-", USER, "other")
"""``other`` stands for all the resources that no pattern names."""

_places = st.tuples(
    st.sampled_from(("*", "upload", "review", "user", "nowhere")),
    st.sampled_from(("*", "progress", "updated", "status_changed", "nothing")),
    st.sampled_from(("*", ">", "77", "78", "-", "{user_id}", None)),
)
patterns = st.one_of(
    st.sampled_from((">", "*", "upload", "review.>", "*.updated", "upload.progress.>")),
    _places.map(lambda places: ".".join(place for place in places if place)),
)
pattern_lists = st.lists(patterns, max_size=5)
wishes = patterns.filter(lambda text: "{" not in text)
rules = st.builds(
    lambda allow, deny: (allow, deny, Rules.parse(allow, deny, USER)), pattern_lists, pattern_lists
)


def covers(text: str, event_type: str, resource: str) -> bool:
    """NATS's own matching, but that a pattern of one or two tokens covers every resource."""
    subject = [*event_type.split("."), resource]
    for place, token in enumerate(text.replace("{user_id}", USER).split(".")):
        if token == ">":
            return True
        if token not in ("*", subject[place]):
            return False
    return True


def permitted(allow: list[str], deny: list[str], event_type: str, resource: str) -> bool:
    return any(covers(text, event_type, resource) for text in allow) and not any(
        covers(text, event_type, resource) for text in deny
    )


def delivered(keys: tuple[Key, ...]) -> set[tuple[str, str]]:
    return {
        (key.event_type, resource)
        for key in keys
        for resource in RESOURCES
        if (key.resource == "*" and resource not in key.excluded) or key.resource == resource
    }


def check_shape(keys: tuple[Key, ...]) -> None:
    """Keys of one type never overlap, and only ``*`` excludes anything."""
    assert len(keys) == len(set(keys))
    for event_type in {key.event_type for key in keys}:
        of_type = [key for key in keys if key.event_type == event_type]
        assert len({key.resource for key in of_type}) == len(of_type)
        if any(key.resource == "*" for key in of_type):
            assert len(of_type) == 1
        assert all(key.resource == "*" or not key.excluded for key in of_type)


@given(rules, wishes)
def test_a_wish_comes_to_what_it_covers_and_the_rules_permit(
    given_rules: tuple[list[str], list[str], Rules], wish: str
) -> None:
    """An event is delivered if and only if the wish covers it, one allows it and none denies it."""
    allow, deny, parsed = given_rules
    grants = Grants(parsed, Rules(), CATALOGUE)
    keys = grants.resolve(Pattern.parse(wish), CATALOGUE)
    assert delivered(keys) == {
        (event_type, resource)
        for event_type in TYPES
        for resource in RESOURCES
        if covers(wish, event_type, resource) and permitted(allow, deny, event_type, resource)
    }
    check_shape(keys)


@given(rules, st.lists(wishes, max_size=5))
def test_several_wishes_come_to_the_union_of_each(
    given_rules: tuple[list[str], list[str], Rules], texts: list[str]
) -> None:
    """All wishes together come to what each comes to alone, in keys that don't overlap."""
    grants = Grants(given_rules[2], Rules(), CATALOGUE)
    parsed = [Pattern.parse(text) for text in texts]
    held = grants.hold({str(each): each for each in parsed}, CATALOGUE)
    keys = tuple(Key(*key, excluded) for key, excluded in held.keys.items())
    assert delivered(keys) == {
        pair for each in parsed for pair in delivered(grants.resolve(each, CATALOGUE))
    }
    check_shape(keys)


@given(rules)
def test_permits_and_scope_say_the_same_as_the_model(
    given_rules: tuple[list[str], list[str], Rules],
) -> None:
    """The check of one event, the scope of its type and the model agree everywhere."""
    allow, deny, parsed = given_rules
    grants = Grants(parsed, parsed, CATALOGUE)
    answers = []
    for event_type in TYPES:
        for resource in RESOURCES:
            expected = permitted(allow, deny, event_type, resource)
            assert grants.permits(event_type, resource) is expected
            assert grants.scope(event_type).permits(resource) is expected
            assert grants.permits_command(event_type, resource) is expected
            answers.append(expected)
    assert grants.unrestricted is all(answers)


@given(rules, rules)
def test_grants_survive_the_way_to_another_replica(
    subscribe: tuple[list[str], list[str], Rules], command: tuple[list[str], list[str], Rules]
) -> None:
    """Grants written as JSON and read back are equal, in rules and in every scope."""
    grants = Grants(subscribe[2], command[2], CATALOGUE)
    back = GrantPolicy({}, CATALOGUE).restore(grants.to_json(), "user")
    assert back == grants
    assert [back.scope(each) for each in TYPES] == [grants.scope(each) for each in TYPES]
    assert back.unrestricted is grants.unrestricted
