"""A validator that says yes or no for half the price: the model's own checks without its objects.

A model's compiled schema makes an instance for each object it reads. The bridge checks each event
and needs none, so the envelope's and its data's fields are compiled once more as plain objects.
Every field's check, constraint and default is the model's own; what does not have the plain shape,
such as a model with validators of its own, is kept as it is. A property test holds the two against
each other.
"""

from __future__ import annotations

from typing import Any, cast

from pydantic import BaseModel
from pydantic_core import CoreConfig, CoreSchema, SchemaValidator, core_schema


def lean_validator(model: type[BaseModel]) -> SchemaValidator:
    """Return a validator of JSON text that refuses what ``model`` refuses, with the same errors."""
    schema = cast("dict[str, Any]", model.__pydantic_core_schema__)
    if schema["type"] != "model":
        return model.__pydantic_validator__  # type: ignore[return-value]  # the same but for plugins
    # Values are seldom the same: keeping them costs more than it saves.
    return SchemaValidator(_plain(schema, nested=True), CoreConfig(cache_strings="keys"))


def _plain(schema: dict[str, Any], *, nested: bool) -> CoreSchema:
    """Return a model's schema as that of a plain object; ``nested`` does so for its fields too."""
    inner = schema["schema"]
    if schema["type"] != "model" or inner["type"] != "model-fields" or schema.get("post_init"):
        return cast("CoreSchema", schema)
    config = schema.get("config", {})
    fields = {name: _field(field, nested=nested) for name, field in inner["fields"].items()}
    return core_schema.typed_dict_schema(
        fields, extra_behavior=config.get("extra_fields_behavior", "ignore"), config=config
    )


def _field(field: dict[str, Any], *, nested: bool) -> core_schema.TypedDictField:
    schema = field["schema"]
    required = schema["type"] != "default"
    if not required:
        schema = schema["schema"]
    if nested and schema["type"] == "model":
        schema = _plain(schema, nested=False)
    return core_schema.typed_dict_field(
        schema, required=required, validation_alias=field.get("validation_alias")
    )
