"""The catalogue: the closed set of event types that one deployment knows.

It answers what a type is, which types a pattern covers, and whether bytes are a valid event. The
bridge asks the last for every event, so validation is one call into compiled code.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from functools import lru_cache
from types import EllipsisType, ModuleType
from typing import Any, Final, Literal

from pydantic import ValidationError, create_model
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from natsbridge.schemas import events as builtin
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.envelope import (
    HEADER_ID,
    HEADER_SCHEMA,
    Envelope,
    JsonObject,
    schema_header,
)
from natsbridge.schemas.errors import CatalogueError, EventError
from natsbridge.schemas.events import EventData, Traits
from natsbridge.schemas.fast_validator import is_promised, lean_validator
from natsbridge.schemas.patterns import Pattern
from natsbridge.schemas.refusal import event_error, refuse_constants

MAX_EXPANSIONS: Final = 4096
"""Patterns whose expansion is remembered."""


_USUAL: Final = len(f"NATS/1.0\r\n{HEADER_ID}: 01970e5e-7d9a-7c1f-b1a4-000000000000")


class EventType:
    """One type: its traits, its model, and the compiled check of its envelope."""

    __slots__ = (
        "_check",
        "_resource",
        "envelope",
        "model",
        "name",
        "published",
        "schema",
        "schema_lines",
        "traits",
        "usual",
    )

    def __init__(self, model: type[EventData]) -> None:
        self.model: Final = model
        self.traits: Final[Traits] = model.traits
        self.name: Final = model.traits.type
        self.envelope: Final[type[Envelope[EventData]]] = create_model(
            f"{model.__name__}Envelope",
            __base__=Envelope[model],  # type: ignore[valid-type]  # built at run time
            type=(Literal[model.traits.type], ...),  # type: ignore[arg-type]
        )
        self._check = lean_validator(self.envelope).validate_json
        self._resource: Final = model.traits.resource
        self.schema: Final = schema_header(self.name, self.traits.version)
        """``<type>@<version>``."""
        line = f"\r\n{HEADER_SCHEMA}: {self.schema}".encode()
        self.schema_lines: Final = (line, line + b"\r\n\r\n")
        """How a header block ends in which this schema is named last, with or without its end."""
        self.usual: Final = _USUAL + len(self.schema_lines[1])
        """The most bytes of the headers that the SDK writes outside of a trace."""
        self.published = 0
        """Events whose publishers named this schema; the bridge counts them."""

    def read(self, payload: bytes) -> Envelope[EventData]:
        """Return the event of this JSON text; raises :class:`EventError` with its reason."""
        self.check(payload)
        return self.envelope.model_validate_json(payload)

    def check(self, payload: bytes, resource: str | EllipsisType | None = ...) -> None:
        """Raise :class:`EventError` with its reason unless this is the JSON text of an event.

        ``resource`` is the id of what its subject says that it is about, None for nothing; without
        it, the subject is not compared.
        """
        # Looking for one byte first is a fifth of the cost, and mostly the end of it.
        if (0x4E in payload and b"NaN" in payload) or (0x49 in payload and b"Infinity" in payload):
            refuse_constants(payload)
        try:
            event = self._check(payload)
        except ValidationError as error:
            raise event_error(error, payload) from None
        name = self._resource
        if name is None:
            about = None
        else:
            data: Any = event["data"]
            # A model with validators of its own is not a plain object.
            about = data[name] if type(data) is dict else getattr(data, name)
        if about != resource and resource is not ...:
            if name is None:
                told = "is about nothing, so its subject ends in -"
                raise EventError(RejectReason.RESOURCE_MISMATCH, told)
            told = "disagrees with the subject"
            raise EventError(RejectReason.RESOURCE_MISMATCH, told, f"data.{name}")


class Catalogue:
    """A closed set of event types."""

    def __init__(self, models: Iterable[type[EventData]]) -> None:
        """Build from models declared with :func:`natsbridge.schemas.events.event`.

        Raises :class:`CatalogueError` when two models declare one type.
        """
        types: dict[str, EventType] = {}
        for model in models:
            if model.traits.type in types:
                raise CatalogueError(f"{model.traits.type} is declared twice")
            types[model.traits.type] = EventType(model)
        self._types: Final = types
        self._covered: Final = lru_cache(MAX_EXPANSIONS)(self._cover)

    @classmethod
    def load(cls, modules: Iterable[str] = ()) -> Catalogue:
        """Build from the types of this package and those of the modules named.

        Raises :class:`CatalogueError` that names the module which can't be imported, or declares
        none.
        """
        models = list(declared(builtin))
        for name in modules:
            try:
                module = importlib.import_module(name)
            except Exception as error:
                # It is the owner's code: whatever it raises, the message names the module.
                told = f"{type(error).__name__}: {error}"
                raise CatalogueError(f"catalogue module {name!r}: {told}") from error
            found = [model for model in declared(module) if model not in models]
            if not found:
                raise CatalogueError(f"catalogue module {name!r} declares no event type")
            models += found
        return cls(models)

    def __contains__(self, event_type: object) -> bool:
        return event_type in self._types

    def __len__(self) -> int:
        return len(self._types)

    def get(self, event_type: str) -> EventType | None:
        """Return the type of this name, or None."""
        return self._types.get(event_type)

    @property
    def types(self) -> tuple[str, ...]:
        """The names of all types, sorted."""
        return tuple(sorted(self._types))

    def of(self, data: EventData) -> EventType:
        """Return the type of this data; raises :class:`EventError` for one that is not here."""
        found = self._types.get(data.traits.type)
        if found is None or found.model is not type(data):
            raise EventError(
                RejectReason.UNKNOWN_EVENT,
                f"{data.traits.type} is not in the catalogue: name its module in BRIDGE_CATALOGUE",
                "type",
            )
        return found

    def expand(self, pattern: Pattern) -> tuple[str, ...]:
        """Return the names of the types that a pattern covers, sorted."""
        return self._covered(pattern.domain, pattern.action)

    def _cover(self, domain: str, action: str) -> tuple[str, ...]:
        pattern = Pattern(domain, action)
        return tuple(name for name in sorted(self._types) if pattern.matches_type(name))

    def json_schema(self) -> dict[str, JsonObject]:
        """Return the JSON Schema of each type's envelope as clients read it, by type."""
        return {
            name: self._types[name].envelope.model_json_schema(
                mode="serialization", schema_generator=_WireSchema
            )
            for name in self.types
        }


class _WireSchema(GenerateJsonSchema):
    """Requires what is promised: what the SDK leaves out where it is None may be absent."""

    def field_is_required(
        self,
        field: core_schema.ModelField | core_schema.DataclassField | core_schema.TypedDictField,
        total: bool,
    ) -> bool:
        schema = field["schema"]
        return schema["type"] != "default" or is_promised(schema)


def declared(module: ModuleType) -> list[type[EventData]]:
    """Return the event models that a module holds, in their order."""
    return [
        value
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, EventData) and "traits" in vars(value)
    ]
