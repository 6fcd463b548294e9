"""The check of an event as it is on the wire: the model's own, without its objects.

A model's compiled schema makes an instance for each object it reads. The bridge checks each event
and needs none, so the envelope's and its data's fields are compiled once more as plain objects.
Every field's check and constraint is the model's own; what does not have the plain shape, such as a
model with validators of its own, is kept as it is. A property test holds the two against each
other. They differ in two things, because the wire is read by more than this model:

- A default is the convenience of whoever writes Python. Clients are promised the field, so it has
  to be there; only what may be None may be absent.
- Where a model takes any value, numbers are those that every JSON parser reads: Go and Rust refuse
  a whole message for a number beyond a double's range, and JavaScript reads Infinity.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final, cast

from pydantic import BaseModel
from pydantic_core import CoreConfig, CoreSchema, SchemaValidator, core_schema

OUT_OF_RANGE: Final = "number_out_of_range"
"""The type of the error for a number that is beyond a double's range."""

_FIELDS: Final = ("model-field", "typed-dict-field", "dataclass-field")
_NO_SCHEMA: Final = frozenset({"metadata", "config", "default", "expected", "serialization"})
_MOST: Final = int(sys.float_info.max)
_ANY: Final = "json-value"


def lean_validator(model: type[BaseModel]) -> SchemaValidator:
    """Return a validator of JSON text that refuses what ``model`` does not read as the wire's.

    What it returns is an object with the model's fields by name, where the model is a plain one.
    """
    schema = on_the_wire(model.__pydantic_core_schema__)
    definitions = [_json_value()]
    if schema["type"] == "definitions":
        definitions += schema["definitions"]
        schema = schema["schema"]
    lean = core_schema.definitions_schema(_plain(schema, nested=True), definitions)
    # Values are seldom the same: keeping them costs more than it saves.
    return SchemaValidator(lean, CoreConfig(cache_strings="keys"))


def on_the_wire(schema: Any) -> Any:
    """Return a core schema, or a part of one, with what is promised required."""
    if isinstance(schema, Mapping):
        if schema.get("type") == "any":
            return core_schema.definition_reference_schema(_ANY)
        changed = {
            name: value if name in _NO_SCHEMA else on_the_wire(value)
            for name, value in schema.items()
        }
        if schema.get("type") in _FIELDS and is_promised(changed["schema"]):
            changed["schema"] = changed["schema"]["schema"]
            if schema["type"] == "typed-dict-field":
                changed["required"] = True
        return changed
    if isinstance(schema, list | tuple):
        return type(schema)(map(on_the_wire, schema))
    return schema


def is_promised(schema: Mapping[str, Any]) -> bool:
    """Whether a field of this core schema has a default, and clients are promised it all the same.

    What may be None is left out by the SDK, so it is not promised.
    """
    if schema["type"] != "default" or schema.get("default", ...) is None:
        return False
    inner = schema["schema"]
    while inner["type"].startswith("function-") and "schema" in inner:
        inner = inner["schema"]
    return bool(inner["type"] != "nullable")


def _json_value() -> CoreSchema:
    again = core_schema.definition_reference_schema(_ANY)
    return core_schema.union_schema(
        [
            core_schema.str_schema(strict=True),
            core_schema.int_schema(strict=True, ge=-_MOST, le=_MOST),
            core_schema.float_schema(strict=True, allow_inf_nan=False),
            core_schema.bool_schema(strict=True),
            core_schema.none_schema(),
            core_schema.dict_schema(core_schema.str_schema(strict=True), again, strict=True),
            core_schema.list_schema(again, strict=True),
        ],
        mode="left_to_right",
        ref=_ANY,
        custom_error_type=OUT_OF_RANGE,
        custom_error_message="The number is beyond what every JSON parser reads",
    )


def _plain(schema: dict[str, Any], *, nested: bool) -> CoreSchema:
    """Return a model's schema as that of a plain object; ``nested`` does so for its fields too."""
    inner = schema.get("schema", {})
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
