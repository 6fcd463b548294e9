"""Grants: defaults per role, claims, sharing, and the examples of the contract."""

from __future__ import annotations

import pytest

from natsbridge.bridge.errors import StartError, TokenError
from natsbridge.bridge.identity.grants import (
    EVERYTHING,
    MAX_CLAIM_PATTERNS,
    MAX_CLAIMS,
    NOTHING,
    GrantPolicy,
    Grants,
    Key,
    Rules,
    Scope,
)
from natsbridge.bridge.settings import GrantRules, GrantsSetting, IdentitySettings
from natsbridge.schemas import events
from natsbridge.schemas.bus import SettingsError
from natsbridge.schemas.catalogue import Catalogue, declared
from natsbridge.schemas.errors import PatternError
from natsbridge.schemas.events import EventData, event
from natsbridge.schemas.patterns import Pattern


@event("audit.entry", admin_only=True)
class AuditEntry(EventData):
    """For admins only."""

    text: str = ""


CATALOGUE = Catalogue([*declared(events), AuditEntry])


def grants(allow: list[str], deny: list[str] | None = None) -> Grants:
    return Grants(Rules.parse(allow, deny or [], "me"), Rules(), CATALOGUE)


def resolve(given: Grants, wish: str) -> tuple[Key, ...]:
    return given.resolve(Pattern.parse(wish), CATALOGUE)


@pytest.fixture
def policy() -> GrantPolicy:
    return GrantPolicy({}, CATALOGUE)


def test_a_narrow_grant_narrows_a_wide_wish() -> None:
    """The grant of one review lets the wish for all of them through for that review only."""
    given = grants(["review.updated.77"])
    assert resolve(given, "review.updated") == (Key("review.updated", "77"),)
    assert resolve(given, ">") == (Key("review.updated", "77"),)
    assert resolve(given, "review.updated.78") == ()


def test_a_denied_resource_is_carried_as_an_exclusion() -> None:
    """A wish for all of a type, of which one resource is denied, is one key that excludes it."""
    given = grants(["review.updated"], ["review.*.77"])
    excluded = frozenset({"77"})
    assert resolve(given, "review.*") == (Key("review.updated", "*", excluded),)
    assert given.scope("review.updated") == Scope(True, excluded=excluded)
    assert resolve(given, "review.updated.77") == ()


def test_deny_wins_over_a_narrower_allow() -> None:
    """A denied type stays denied for a resource that is allowed by name."""
    given = grants(["review.updated.77"], ["review.*"])
    assert given.scope("review.updated") is NOTHING
    assert resolve(given, "review.updated.77") == ()


def test_a_type_outside_the_catalogue_is_nobodys_to_subscribe_to() -> None:
    """Even whoever may see everything may not see a type that nobody declared; who would hear that
    there was one is a matter of the patterns.
    """
    given = grants([">"], ["no.other"])
    assert resolve(given, "no.such") == ()
    assert given.scope("no.such") is NOTHING
    assert given.permits("no.such", "1")
    assert not given.permits("no.other", "1")
    assert not grants(["review.*"]).permits("no.such", "1")


def test_only_whole_freedom_is_unrestricted() -> None:
    """One denied resource anywhere makes checks necessary, of a type that is not known here too."""
    assert grants([">"]).unrestricted
    assert not grants(list(CATALOGUE.types)).unrestricted
    assert not grants([">"], ["no.other"]).unrestricted
    assert not grants([">"], ["review.updated.77"]).unrestricted
    assert not grants(["review.*"]).unrestricted


@pytest.mark.parametrize(
    "text",
    ["{user_id}.created", "review.{user_id}", "review.updated.a{user_id}", "review.updated.{x}",
     "{user_id}", "a.b.c.{user_id}", "review.updated.{user_id}.x"],
)  # fmt: skip
def test_the_user_stands_for_a_whole_resource_only(text: str) -> None:
    """A subject can't choose the type or a part of what its own grant is about."""
    with pytest.raises(PatternError):
        Rules.parse([text], [], "me")


def test_the_user_is_its_encoded_token() -> None:
    """The placeholder becomes the subject's token as it stands in subjects."""
    given = Rules.parse(["user.status_changed.{user_id}"], [], "a=2Eb")
    assert given.permits("user.status_changed", "a=2Eb")
    assert not given.permits("user.status_changed", "b")


def test_default_is_everything_but_admin_types(policy: GrantPolicy) -> None:
    """Without settings and claim, users see all but the admin-only types, and may command."""
    user = policy.default("user", "me")
    assert user.permits("review.updated", "77")
    assert not user.permits("audit.entry", "-")
    assert not user.unrestricted
    assert user.permits_command("upload.cancel", "1")
    admin = policy.default("admin", "me")
    assert admin.unrestricted
    assert admin.scope("audit.entry") is EVERYTHING


def test_defaults_are_shared_between_sessions(policy: GrantPolicy) -> None:
    """Two users of one role, and of two roles that nobody configured, hold one object."""
    assert policy.default("user", "a") is policy.default("user", "b")
    assert policy.default("user", "a") is policy.default("whatever", "b")


def test_settings_per_role() -> None:
    """A role has its own settings, every other one those of ``default``, part by part."""
    policy = GrantPolicy(
        {
            "default": GrantsSetting(subscribe=GrantRules(allow=("user.*.{user_id}",))),
            "reviewer": GrantsSetting(command=GrantRules(allow=())),
        },
        CATALOGUE,
    )
    other = policy.default("someone", "me")
    assert other.permits("user.status_changed", "me")
    assert not other.permits("user.status_changed", "you")
    assert other.permits_command("upload.cancel", "1")
    reviewer = policy.default("reviewer", "me")
    assert reviewer.permits("review.updated", "1")
    assert not reviewer.permits("audit.entry", "-")
    assert not reviewer.permits_command("upload.cancel", "1")
    assert policy.default("admin", "me") == other


def test_a_setting_of_one_part_leaves_admins_the_other() -> None:
    """When ``default`` says nothing of subscriptions, admins still see the admin-only types."""
    policy = GrantPolicy({"default": GrantsSetting(command=GrantRules())}, CATALOGUE)
    assert policy.default("admin", "me").unrestricted
    assert not policy.default("user", "me").permits("audit.entry", "-")


def test_a_bad_default_stops_the_start() -> None:
    """A placeholder in the wrong place is told with its role when the bridge starts."""
    rules = GrantRules(allow=("{user_id}.created",))
    with pytest.raises(StartError, match="BRIDGE_GRANTS: reviewer"):
        GrantPolicy({"reviewer": GrantsSetting(subscribe=rules)}, CATALOGUE)


def test_a_claim_replaces_the_parts_that_it_has(policy: GrantPolicy) -> None:
    """A claim that speaks of subscriptions leaves the default of commands in force."""
    claim = {"subscribe": {"allow": ["review.*.{user_id}"], "deny": ["review.deleted"]}}
    given = policy.claimed(claim, "user", "me")
    assert given.permits("review.updated", "me")
    assert not given.permits("review.updated", "you")
    assert not given.permits("review.deleted", "me")
    assert given.permits_command("upload.cancel", "1")
    assert policy.claimed(claim, "user", "you").permits("review.updated", "you")
    assert policy.claimed({}, "user", "me") is policy.default("user", "me")


def test_an_empty_allow_permits_nothing(policy: GrantPolicy) -> None:
    """A list that is there and empty is not one that is missing."""
    claim = {"subscribe": {"allow": []}, "command": {"allow": [], "deny": []}}
    given = policy.claimed(claim, "admin", "me")
    assert resolve(given, ">") == ()
    assert not given.permits_command("upload.cancel", "1")


def test_rules_that_only_deny_narrow_the_default(policy: GrantPolicy) -> None:
    """Without ``allow`` the role's default counts, with what it withholds, less the denials."""
    claim = {"subscribe": {"deny": ["review.deleted"]}, "command": {"deny": ["upload.>"]}}
    given = policy.claimed(claim, "user", "me")
    assert given.permits("review.updated", "1")
    assert not given.permits("review.deleted", "1")
    assert not given.permits("audit.entry", "-")
    assert not given.permits_command("upload.cancel", "1")
    assert policy.claimed({"subscribe": {}, "command": {}}, "user", "me") == policy.default(
        "user", "me"
    )


def test_a_setting_that_only_denies_narrows_the_default() -> None:
    """A role's entry without ``allow`` is every type but those withheld, less the denials; a claim
    that only denies narrows that further.
    """
    rules = GrantRules(deny=("review.deleted",))
    policy = GrantPolicy({"default": GrantsSetting(subscribe=rules)}, CATALOGUE)
    for given in (
        policy.default("user", "me"),
        policy.claimed({"subscribe": {"deny": ["upload.error"]}}, "user", "me"),
    ):
        assert given.permits("review.updated", "1")
        assert not given.permits("review.deleted", "1")
        assert not given.permits("audit.entry", "-")
    assert not given.permits("upload.error", "1")


def test_a_null_in_the_settings_is_refused() -> None:
    """``null`` is no way to leave something out, in ``BRIDGE_GRANTS`` either."""
    for text in ('{"user": {"subscribe": null}}', '{"user": {"subscribe": {"allow": null}}}'):
        with pytest.raises(SettingsError, match="BRIDGE_GRANTS"):
            IdentitySettings.from_environment(
                {"BRIDGE_JWT_SECRET": "x" * 32, "BRIDGE_GRANTS": text}
            )


@pytest.mark.parametrize(
    "claim",
    [None, [], "x", 1, True, {"subscribe": None}, {"subscribe": []}, {"subscribe": "x"},
     {"subscribe": {"allow": "upload.*"}}, {"subscribe": {"allow": [1]}},
     {"subscribe": {"allow": None}}, {"subscribe": {"allow": ["a..b"]}},
     {"subscribe": {"allow": ["upload.>.x"]}}, {"subscribe": {"allow": ["{user_id}.x"]}},
     {"subscribe": {"permit": []}}, {"publish": {}},
     {"command": {"allow": [], "deny": ["secret..pattern"]}}],
)  # fmt: skip
def test_a_malformed_claim_refuses_the_token(policy: GrantPolicy, claim: object) -> None:
    """A claim is never ignored, whatever is wrong with it, and its values are not told."""
    for _ in range(2):
        with pytest.raises(TokenError) as refused:
            policy.claimed(claim, "admin", "me")
        assert "secret" not in refused.value.reason
        assert not refused.value.expired


def test_a_claim_has_a_bounded_number_of_patterns(policy: GrantPolicy) -> None:
    """The lists of a claim may have 256 patterns together, and not one more."""
    half = [f"review.updated.{n}" for n in range(MAX_CLAIM_PATTERNS // 2)]
    policy.claimed({"subscribe": {"allow": half, "deny": half}}, "user", "me")
    with pytest.raises(TokenError, match="256"):
        policy.claimed(
            {"subscribe": {"allow": half, "deny": half}, "command": {"allow": [">"]}}, "user", "me"
        )


def test_equal_claims_are_shared_within_bounds(policy: GrantPolicy) -> None:
    """One claim in many tokens is one object; a flood of different ones only forgets the oldest."""
    claim = {"subscribe": {"allow": ["review.*"]}}
    first = policy.claimed(claim, "user", "a")
    assert policy.claimed(claim, "user", "b") is first
    assert policy.claimed(claim, "admin", "b") is not first
    for number in range(MAX_CLAIMS):
        policy.claimed({"subscribe": {"allow": [f"review.*.{number}"]}}, "user", "a")
    assert policy.claimed(claim, "user", "a") == first


def test_a_claim_that_says_the_default_is_the_default(policy: GrantPolicy) -> None:
    """Grants equal to the role's default, from a claim or another replica, share its object."""
    admin = policy.default("admin", "me")
    everything = {"allow": [">"]}
    assert policy.claimed({"subscribe": everything, "command": everything}, "admin", "me") is admin
    assert policy.restore(admin.to_json(), "admin") is admin


def test_grants_compare_by_their_rules() -> None:
    """Equal rules are equal grants, in sets too; other values are not."""
    assert grants(["a.b"]) == grants(["a.b"])
    assert len({grants(["a.b"]), grants(["a.b"]), grants(["a.c"])}) == 2
    assert grants(["a.b"]) != "a.b"
    assert "a.b.*" in repr(grants(["a.b"]))
