"""Grants: what a token may see and do, as decisions on event types and resources.

Called by the session (``resolve``), and by live delivery and replay for each event (``permits``,
``unrestricted``). Pure and synchronous. A wish is never matched against a grant: what is delivered
is the intersection of both, so the grant ``review.updated.77`` lets the wish ``review.updated``
through for the review 77 and no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from pydantic import ValidationError

from natsbridge.bridge.errors import StartError, TokenError
from natsbridge.bridge.settings import GrantRules, GrantsSetting
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.errors import PatternError
from natsbridge.schemas.patterns import ANY, Pattern
from natsbridge.schemas.replies import acknowledged_data

MAX_CLAIM_PATTERNS: Final = 256
"""Most patterns in one ``grants`` claim, all its lists together."""

MAX_CLAIMS: Final = 256
"""How many different claims are remembered, so that each is read once."""

MAX_HOLDINGS: Final = 64
"""How many sets of patterns are remembered with grants that many sessions share."""
MAX_SHARED_PATTERNS: Final = 16
"""How many patterns such a set has at most."""

ADMIN: Final = "admin"
"""The role that sees the types marked admin-only by default."""

OTHER_ROLES: Final = "default"
"""The key in the settings that stands for each role not named there."""

USER_ID: Final = "{user_id}"
"""Stands for the token's subject as a resource, and for nothing but a whole resource."""


@dataclass(frozen=True, slots=True)
class Scope:
    """What of one event type is permitted, in resource tokens.

    ``every`` resource but those ``excluded``, or the resources in ``only``.
    """

    every: bool
    only: frozenset[str] = frozenset()
    excluded: frozenset[str] = frozenset()

    def permits(self, resource: str) -> bool:
        """Whether events about this resource (a subject token) may be seen."""
        return resource not in self.excluded if self.every else resource in self.only


NOTHING: Final = Scope(False)
EVERYTHING: Final = Scope(True)


@dataclass(frozen=True, slots=True)
class Key:
    """One unit that a session wants delivered: a type, and one resource or ``*``.

    ``excluded`` are the resources that ``*`` does not come to; empty for a single resource.
    """

    event_type: str
    resource: str
    excluded: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Rules:
    """Patterns allowed and denied; deny wins. Nothing is permitted without an allowing one."""

    allow: tuple[Pattern, ...] = ()
    deny: tuple[Pattern, ...] = ()

    @classmethod
    def parse(cls, allow: Iterable[str], deny: Iterable[str], user: str | None = None) -> Rules:
        """Read patterns; ``user`` is the token of the user that ``{user_id}`` stands for.

        Raises :class:`PatternError` for a malformed one, one with ``{user_id}`` anywhere but as
        its whole resource, and one with ``{user_id}`` where there is no user.
        """
        return cls(
            tuple(_parse(text, user) for text in allow), tuple(_parse(text, user) for text in deny)
        )

    def scopes(self, event_types: Iterable[str]) -> dict[str, Scope]:
        """Work out what of these types is permitted."""
        # Hundreds of patterns name few types: it is looked for those, and not pattern by pattern.
        allow, deny = _by_type(self.allow), _by_type(self.deny)
        return {name: _scope(name, allow, deny) for name in event_types}

    def permits(self, name: str, resource: str) -> bool:
        """Whether some pattern allows this and none denies it; ``resource`` is a token."""
        return any(each.matches(name, resource) for each in self.allow) and not any(
            each.matches(name, resource) for each in self.deny
        )

    def to_json(self) -> dict[str, list[str]]:
        """Return the form of a claim's part, with ``{user_id}`` filled in."""
        return {"allow": [str(each) for each in self.allow], "deny": [str(d) for d in self.deny]}


def _by_type(patterns: Iterable[Pattern]) -> dict[Pattern, set[str]]:
    """Return the resources of each type, as a pattern without one, that patterns name."""
    found: dict[tuple[str, str], set[str]] = {}
    for each in patterns:
        found.setdefault((each.domain, each.action), set()).add(each.resource)
    return {Pattern(*names): resources for names, resources in found.items()}


def _scope(
    event_type: str, allow: Mapping[Pattern, set[str]], deny: Mapping[Pattern, set[str]]
) -> Scope:
    only, excluded = (
        set[str]().union(*(some for each, some in rules.items() if each.matches_type(event_type)))
        for rules in (allow, deny)
    )
    if ANY in excluded:
        return NOTHING
    if ANY in only:
        return Scope(True, excluded=frozenset(excluded)) if excluded else EVERYTHING
    only -= excluded
    return Scope(False, frozenset(only)) if only else NOTHING


def _parse(text: str, user: str | None) -> Pattern:
    if "{" not in text:
        return Pattern.parse(text)
    head, _, resource = text.rpartition(".")
    if resource != USER_ID or head.count(".") != 1:
        # Anywhere else a subject could choose the type that its own grant is about.
        raise PatternError(f"{USER_ID} stands for a whole resource only")
    if user is None:
        raise PatternError(f"{USER_ID} has no user here")
    return Pattern.parse(f"{head}.{user}")


Unit = tuple[tuple[str, str], frozenset[str]]
"""An event type and a resource token or ``*``, and what is left out of it."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What patterns come to with some grants. Never changed: many sessions share one."""

    patterns: Mapping[str, Pattern]
    units: Mapping[str, tuple[Unit, ...]]
    """Of each pattern by itself."""
    keys: dict[tuple[str, str], frozenset[str]]
    """Of all together: a unit that is a whole type holds its single resources."""
    count: int
    """How many units the patterns come to, each by itself."""
    size: int
    """Characters of the patterns, with the quotes and the comma of each."""
    acknowledged: bytes = b""
    """How the data of an acknowledgement of them begins; empty where few want the same."""

    @classmethod
    def of(cls, units: Mapping[str, tuple[Unit, ...]], patterns: Mapping[str, Pattern]) -> Holding:
        """Join what each pattern comes to."""
        keys = {key: excluded for each in units.values() for key, excluded in each}
        whole = {event_type for event_type, resource in keys if resource == ANY}
        if whole and len(whole) < len(keys):
            keys = {
                key: excluded
                for key, excluded in keys.items()
                if key[1] == ANY or key[0] not in whole
            }
        size = sum(map(len, patterns)) + 3 * len(patterns)
        return cls(patterns, units, keys, sum(map(len, units.values())), size)


HELD_NOTHING: Final = Holding({}, {}, {}, 0, 0)


class Grants:
    """What one token may see and do. Immutable; equal when the rules are.

    Scopes are worked out once, for the catalogue's types: a type that is not in it is nobody's to
    subscribe to.
    """

    __slots__ = ("_resolved", "_scopes", "command", "holdings", "subscribe", "unrestricted")

    def __init__(self, subscribe: Rules, command: Rules, catalogue: Catalogue) -> None:
        self.subscribe: Final = subscribe
        self.command: Final = command
        self._scopes: Final = subscribe.scopes(catalogue.types)
        # A connect asks twice. Of any resource there are no more patterns than a catalogue's names
        # come to; single resources are as many as clients name.
        self._resolved: Final[dict[Pattern, tuple[Key, ...]]] = {}
        self.holdings: dict[tuple[str, ...], Holding] | None = None
        """By patterns, where many sessions have these grants and ask for the same; else None."""
        self.unrestricted: Final = (
            all(each is EVERYTHING for each in self._scopes.values())
            and Pattern() in subscribe.allow
            and not subscribe.deny
        )
        """True when nothing is withheld, of types that are not in the catalogue either: no event
        needs a check."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Grants):
            return NotImplemented
        return self.subscribe == other.subscribe and self.command == other.command

    def __hash__(self) -> int:
        return hash((self.subscribe, self.command))

    def __repr__(self) -> str:
        return f"Grants({self.to_json()!r})"

    def scope(self, event_type: str) -> Scope:
        """Return what of this type is permitted."""
        return self._scopes.get(event_type, NOTHING)

    def permits(self, event_type: str, resource: str) -> bool:
        """Whether events of this type about this resource (a subject token) may be seen.

        Of a type that is not in the catalogue none is ever delivered; the patterns say who is told
        that there was one.
        """
        scope = self._scopes.get(event_type)
        if scope is None:
            return self.subscribe.permits(event_type, resource)
        return scope.permits(resource)

    def permits_command(self, command: str, resource: str) -> bool:
        """Whether this command (``upload.cancel``) may be given about this resource token."""
        return self.command.permits(command, resource)

    def resolve(self, pattern: Pattern, catalogue: Catalogue) -> tuple[Key, ...]:
        """Return what a wish comes to: the wish ∩ these grants, over the catalogue.

        Per type that is one key with ``*``, or one key for each single resource; empty when
        nothing of the wish is permitted. Keys of one type never overlap.
        """
        if pattern.resource != ANY:
            return tuple(self._keys(pattern, catalogue))
        keys = self._resolved.get(pattern)
        if keys is None:
            keys = tuple(self._keys(pattern, catalogue))
            if keys:
                self._resolved[pattern] = keys
        return keys

    def hold(
        self, patterns: Mapping[str, Pattern], catalogue: Catalogue, before: Holding | None = None
    ) -> Holding:
        """Return what patterns come to together.

        ``before`` is what some of them came to with these very grants. Sessions with shared grants
        that want the same, which names no single resources, get the same object.
        """
        names, shared = tuple(patterns), self.holdings
        if shared is not None and (found := shared.get(names)) is not None:
            return found
        known = {} if before is None else before.units
        holding = Holding.of(
            {
                text: known.get(text)
                or tuple(
                    ((key.event_type, key.resource), key.excluded)
                    for key in self.resolve(pattern, catalogue)
                )
                for text, pattern in patterns.items()
            },
            patterns,
        )
        if (
            shared is not None
            and len(names) <= MAX_SHARED_PATTERNS
            and all(pattern.resource == ANY for pattern in patterns.values())
        ):
            if len(shared) >= MAX_HOLDINGS:
                del shared[next(iter(shared))]
            effective = sorted({event_type for event_type, _ in holding.keys})
            begun = acknowledged_data(names, effective)
            holding = shared[names] = replace(holding, acknowledged=begun)
        return holding

    def _keys(self, pattern: Pattern, catalogue: Catalogue) -> Iterator[Key]:
        for name in catalogue.expand(pattern):
            scope = self.scope(name)
            if pattern.resource != ANY:
                if scope.permits(pattern.resource):
                    yield Key(name, pattern.resource)
            elif scope.every:
                yield Key(name, ANY, scope.excluded)
            else:
                for resource in sorted(scope.only):
                    yield Key(name, resource)

    def to_json(self) -> dict[str, dict[str, list[str]]]:
        """Return the form of a ``grants`` claim, whole: no part is left to a default."""
        return {"subscribe": self.subscribe.to_json(), "command": self.command.to_json()}


_Parts = tuple[GrantRules, GrantRules]
"""The rules of ``subscribe`` and of ``command``, each with its ``allow``."""

_FIELDS: Final = frozenset({"subscribe", "command", "allow", "deny"})


class GrantPolicy:
    """Makes the grants of a token: its claim, and the defaults per role behind it.

    Grants that don't depend on the user are one object for all sessions with the same ones: the
    defaults of a role, and the :data:`MAX_CLAIMS` claims that were read last.
    """

    def __init__(self, setting: Mapping[str, GrantsSetting], catalogue: Catalogue) -> None:
        """Read the defaults; raises :class:`StartError` that names the role of a bad pattern."""
        self._catalogue: Final = catalogue
        self._admin_only: Final = tuple(
            name
            for name in catalogue.types
            if (found := catalogue.get(name)) is not None and found.traits.admin_only
        )
        self._parts: Final[dict[str, _Parts]] = {}
        self._shared: Final[dict[str, Grants]] = {}
        self._claims: Final[dict[tuple[str, str], Grants | _Parts]] = {}
        for role in {*setting, ADMIN, OTHER_ROLES}:
            chosen = setting.get(role) or setting.get(OTHER_ROLES) or GrantsSetting()
            withheld = () if role == ADMIN else self._admin_only
            parts = _over(
                chosen, (GrantRules(allow=(">",), deny=withheld), GrantRules(allow=(">",)))
            )
            try:
                # What depends on the user is built for each; here it is checked with a stand-in.
                grants = self._build(parts, "x")
            except PatternError as error:
                raise StartError(f"BRIDGE_GRANTS: {role}: {error}") from None
            self._parts[role] = parts
            if not _personal(parts):
                grants.holdings = {}
                self._shared[role] = grants

    def default(self, role: str, user: str) -> Grants:
        """Return the grants of a token without a claim; ``user`` is the subject's token.

        They are those in the settings for its role, or for ``default``. A part that is not there
        permits every command, and every type of the catalogue but those marked admin-only, which
        the role ``admin`` alone may see.
        """
        role = self._known(role)
        shared = self._shared.get(role)
        return self._build(self._parts[role], user) if shared is None else shared

    def claimed(self, claim: object, role: str, user: str) -> Grants:
        """Return the grants of a token with a claim; a part that is not there is the default's.

        Raises :class:`TokenError` for a malformed claim, without its values: a claim is never
        ignored, since what is behind it may permit more.
        """
        if not isinstance(claim, dict) or not all(isinstance(p, dict) for p in claim.values()):
            raise TokenError("the token's grants are not an object of objects")
        if _count(claim) > MAX_CLAIM_PATTERNS:
            raise TokenError(f"the token's grants have over {MAX_CLAIM_PATTERNS} patterns")
        role = self._known(role)
        name = (role, repr(claim))
        known = self._claims.get(name)
        try:
            if known is None:
                known = self._read_claim(claim, role)
                if len(self._claims) >= MAX_CLAIMS:
                    del self._claims[next(iter(self._claims))]
                self._claims[name] = known
            return self._build(known, user) if isinstance(known, tuple) else known
        except ValidationError as error:
            # Names of fields, as far as they are ours: what else stands there is the token's.
            where = [each for each in error.errors()[0]["loc"] if each in _FIELDS]
            place = ".".join(map(str, where)) or "a part of them"
            raise TokenError(f"the token's grants are malformed: {place}") from None
        except PatternError as error:
            raise TokenError(f"the token's grants are malformed: {error}") from None

    def _read_claim(self, claim: dict[str, Any], role: str) -> Grants | _Parts:
        """Return the grants of a claim, or the parts to make each user's from."""
        setting = GrantsSetting.model_validate(claim)
        parts = _over(setting, self._parts[role])
        grants = self._build(parts, "x")  # also finds what is wrong before it is remembered
        if _personal(parts):
            return parts
        grants.holdings = {}
        return self._interned(grants, role)

    def restore(self, value: Mapping[str, Any], role: str) -> Grants:
        """Return the grants that :meth:`Grants.to_json` wrote, maybe in another replica.

        Raises :class:`ValueError`, :class:`TypeError` or :class:`KeyError` for anything else.
        """
        subscribe, command = (
            Rules.parse(value[part]["allow"], value[part]["deny"])
            for part in ("subscribe", "command")
        )
        return self._interned(Grants(subscribe, command, self._catalogue), self._known(role))

    def _known(self, role: str) -> str:
        return role if role in self._parts else OTHER_ROLES

    def _interned(self, grants: Grants, role: str) -> Grants:
        shared = self._shared.get(role)
        return shared if shared is not None and shared == grants else grants

    def _build(self, parts: _Parts, user: str) -> Grants:
        subscribe, command = (Rules.parse(part.allow or (), part.deny, user) for part in parts)
        return Grants(subscribe, command, self._catalogue)


def _over(chosen: GrantsSetting, default: _Parts) -> _Parts:
    """Return the rules with what was not chosen taken from the default.

    Rules that only deny narrow the default, denials and all: without those, naming one thing to be
    denied would allow what the default withholds.
    """

    def one(rules: GrantRules | None, behind: GrantRules) -> GrantRules:
        if rules is None:
            return behind
        if rules.allow is not None:
            return rules
        return GrantRules(allow=behind.allow, deny=(*behind.deny, *rules.deny))

    return one(chosen.subscribe, default[0]), one(chosen.command, default[1])


def _personal(parts: _Parts) -> bool:
    return any(USER_ID in text for part in parts for text in (*(part.allow or ()), *part.deny))


def _count(claim: dict[str, dict[str, Any]]) -> int:
    lists = (each for part in claim.values() for each in part.values())
    return sum(len(each) for each in lists if isinstance(each, list))
