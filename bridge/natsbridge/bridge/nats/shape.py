"""How the stream must look: its subjects, and what of one that is there breaks or weakens delivery.

Its subjects are the catalogue's durable types, written out for each audience, and its
``max_msg_size`` is what the bridge delivers and room for headers: so NATS itself refuses a mistyped
type or audience, an id with a dot in it, an ephemeral type, and an event far too large, whatever
language its publisher is written in. Pure; :mod:`natsbridge.bridge.nats.stream` and ``natsbridge
stream`` ask.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from enum import Enum
from typing import Any, Final

from nats.js.api import RePublish, RetentionPolicy, StorageType, StreamConfig

from natsbridge.bridge.settings import StreamSettings
from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.subjects import Address, Audience, Root, Subjects

DUPLICATE_WINDOW: Final = 120.0
"""Seconds within which a second message with one ``Nats-Msg-Id`` is a duplicate."""
HEADERS: Final = 4096
"""Bytes of headers that fit beside a payload of the largest size: NATS counts both."""
MAX_UNKNOWN: Final = 64
"""Types that this bridge does not know and clients are told of."""
MEND: Final = "`natsbridge stream apply` mends it"
ANEW: Final = "no update changes that: make it anew"
BY_HAND: Final = "`nats stream edit` changes it"

BREAKING: Final = {
    "allow_direct": ("what is stored can't be read", MEND),
    "no_ack": ("publishers do not hear that an event is stored", MEND),
    "retention": ("events do not stay for those who come back", ANEW),
    "mirror": ("it takes no events itself", ANEW),
    "sealed": ("it takes no events any more", ANEW),
    "allow_msg_counter": ("it takes counters only", ANEW),
    "sources": ("it takes what other streams have, past its own subjects", BY_HAND),
    "subject_transform": ("events are stored under other subjects", BY_HAND),
}
"""What has to be as it is wanted: what is broken where it is not, and what mends it."""

CHOSEN: Final = {
    "max_age": "",
    "max_bytes": "",
    "max_msgs_per_subject": "",
    "num_replicas": "",
    "max_msgs": "beyond it the oldest go",
    "max_msg_size": "",
    "discard": "a full stream refuses new events",
    "storage": "a restart of NATS loses what is stored",
    "persist_mode": "a crash of NATS loses events that it has acknowledged",
    "duplicate_window": "an event that is sent again later comes twice",
    "allow_rollup_hdrs": "who publishes can delete what is stored",
}
"""What whoever made the stream may choose, and what that costs where it is not in the settings."""


def event_subjects(catalogue: Catalogue, subjects: Subjects) -> list[str]:
    """Return the subjects of a catalogue's durable types, one for each audience that a type has."""
    found = []
    for name in catalogue.types:
        kind = catalogue.get(name)
        if kind is None or not kind.traits.durable:
            continue
        for audience in sorted(kind.traits.audiences):
            user = "*" if audience is Audience.USER else ""
            found.append(subjects.event(Root.EVENTS, Address(audience, name, "*", user)))
    return sorted(found)


def wanted(
    name: str,
    subjects: Subjects,
    settings: StreamSettings,
    *,
    catalogue: Catalogue,
    max_message_size: int,
) -> StreamConfig:
    """Return how the stream must look; what an owner may choose is as in the settings."""
    return StreamConfig(
        name=name,
        subjects=event_subjects(catalogue, subjects),
        retention=RetentionPolicy.LIMITS,
        storage=StorageType.FILE,
        max_age=settings.max_age,
        max_bytes=settings.max_bytes,
        max_msgs=-1,
        max_msgs_per_subject=settings.max_per_subject or -1,
        max_msg_size=max_message_size + HEADERS,
        num_replicas=settings.replicas,
        duplicate_window=min(DUPLICATE_WINDOW, settings.max_age),
        allow_direct=True,
        republish=republishing(subjects),
    )


def republishing(subjects: Subjects) -> RePublish:
    """Return where what is stored goes on to."""
    return RePublish(src=f"{subjects.root(Root.EVENTS)}.>", dest=f"{subjects.root(Root.STREAM)}.>")


def foreign(found: Iterable[str], subjects: Subjects) -> list[str]:
    """Return which of a stream's subjects have not the form of a type's, whatever the type.

    ``events.probe`` is kept for what bridges ask the stream.
    """
    root = re.escape(subjects.root(Root.EVENTS))
    name = r"[a-z][a-z0-9_]{0,63}"
    form = re.compile(rf"{root}\.(?:(?:user\.\*|topic|all)\.{name}\.{name}\.\*|probe)")
    return sorted(each for each in found if not form.fullmatch(each))


def unknown_types(
    found: Iterable[str], catalogue: Collection[str], subjects: Subjects
) -> tuple[str, ...]:
    """Return the event types among a stream's subjects that are in another bridge's catalogue only.

    No more than :data:`MAX_UNKNOWN`: each is read beside what a replay wants.
    """
    root = subjects.root(Root.EVENTS)
    types = set()
    for subject in found:
        tokens = subject.removeprefix(f"{root}.").split(".")
        if subject.startswith(f"{root}.") and len(tokens) > 3:
            types.add(".".join(tokens[-3:-1]))
    return tuple(sorted(types.difference(catalogue))[:MAX_UNKNOWN])


def from_01(found: StreamConfig, subjects: Subjects) -> bool:
    """Whether a stream is as version 0.1 made it: any event, republished to ``live`` itself."""
    return found.subjects == [f"{subjects.root(Root.EVENTS)}.>"]


def missing(found: Collection[str], want: Iterable[str]) -> list[str]:
    """Return which of the wanted subjects a stream has not."""
    return [each for each in want if each not in found]


def differences(found: StreamConfig, want: StreamConfig, subjects: Subjects) -> list[str]:
    """Tell what of an existing stream would break delivery, and what mends it; empty when nothing
    would. Subjects that it only lacks break nothing.
    """
    told = []
    if from_01(found, subjects):
        told.append(f"it is as version 0.1 made it (stop the bridges, then {MEND})")
    else:
        others = foreign(found.subjects or (), subjects)
        if others or not found.subjects:
            shown = ", ".join(others[:5]) or "none"
            told.append(f"its subjects are not those of event types: {shown} ({BY_HAND})")
        republish = found.republish
        if republish is None or republish.headers_only:
            told.append(f"it does not republish whole messages ({MEND})")
        elif want.republish is not None and (republish.src, republish.dest) != (
            want.republish.src,
            want.republish.dest,
        ):
            told.append(f"it republishes {republish.src} to {republish.dest} ({MEND})")
    names = {name: f"{effect}; {mend}" for name, (effect, mend) in BREAKING.items()}
    return told + _unlike(names, found, want)


def choices(found: StreamConfig, want: StreamConfig) -> list[str]:
    """Tell what else of an existing stream is not as the bridge would make it: it breaks nothing,
    but keeps events shorter, less safely, or longer.
    """
    names = dict(CHOSEN)
    if found.duplicate_window > want.duplicate_window:
        del names["duplicate_window"]
    size, most = found.max_msg_size or -1, want.max_msg_size or -1
    names["max_msg_size"] = (
        f"larger events are refused; {MEND}"
        if 0 < size < most
        else f"what is larger than clients take is stored all the same; {MEND}"
    )
    return _unlike(names, found, want)


def _unlike(names: Mapping[str, str], found: StreamConfig, want: StreamConfig) -> list[str]:
    told = []
    for name, effect in names.items():
        mine, theirs = getattr(want, name), getattr(found, name)
        if mine != theirs and (mine or theirs):  # what is off may be left out, false or empty
            words = f"{name} is {shown(theirs)}, not {shown(mine)}"
            told.append(f"{words} ({effect})" if effect else words)
    return told


def shown(value: object) -> str:
    """Return a setting of a stream as a reader would write it."""
    match value:
        case None | False | []:
            return "off"
        case True:
            return "on"
        case Enum():
            return str(value.value)
        case str():
            return value
        case int() | float():
            return f"{value:.15g}"
    return "set"


Config = dict[str, Any]
"""A stream's configuration as the server gives it: what is not known here stays in it."""

_REPAIRED: Final = ("subjects", "republish", "allow_direct", "no_ack", "max_msg_size")
_BY_SETTING: Final = {
    "max_age": "max_age",
    "max_bytes": "max_bytes",
    "max_per_subject": "max_msgs_per_subject",
    "replicas": "num_replicas",
}
"""What the owner of a stream chooses: only a setting that is given changes it."""


def revised(
    found: Config, want: StreamConfig, subjects: Subjects, settings: StreamSettings
) -> Config:
    """Return the configuration that mends a stream.

    Subjects of types that are not known here stay, they are another bridge's. Of 0.1's stream the
    subject of any event goes, and the types that are known take its place.
    """
    config, target = dict(found), want.as_dict()
    for name in _REPAIRED:
        if found.get(name) or target.get(name):
            config[name] = target.get(name) or False
    any_event = f"{subjects.root(Root.EVENTS)}.>"
    kept = {each for each in found.get("subjects") or () if each != any_event}
    config["subjects"] = sorted(kept | set(want.subjects or ()))
    for setting, name in _BY_SETTING.items():
        if setting in settings.model_fields_set:
            config[name] = target[name]
    age, window = config.get("max_age") or 0, config.get("duplicate_window") or 0
    if 0 < age < window:
        config["duplicate_window"] = age  # the server takes no window that is longer
    return config


def changes(found: Config, revision: Config) -> dict[str, tuple[Any, Any]]:
    """Return each setting but the subjects that a revision changes: from what, to what."""
    return {
        name: (found.get(name), value)
        for name, value in revision.items()
        if name != "subjects" and value != found.get(name)
    }
