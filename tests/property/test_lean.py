"""The lean validator and the model it stands for agree on all but what the wire asks for more."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from natsbridge.schemas.catalogue import Catalogue, EventType
from natsbridge.schemas.events import EventData, event
from natsbridge.schemas.fast_validator import lean_validator


class Part(BaseModel):
    """A model inside of an event's data."""

    weight: int = Field(gt=0)
    unit: str = "kg"


@event("parcel.sent", resource="parcel_id")
class ParcelSent(EventData):
    """Data with validators of fields, an alias, and a nested model."""

    parcel_id: str
    parts: list[Part] = Field(default_factory=list)
    label: str = Field("none", alias="Label")

    @field_validator("label")
    @classmethod
    def _short(cls, label: str) -> str:
        if len(label) > 5:
            raise ValueError("too long")
        return label


@event("parcel.weighed")
class ParcelWeighed(EventData):
    """Data with a validator of the whole model, which needs an instance."""

    least: int
    most: int

    @model_validator(mode="after")
    def _order(self) -> ParcelWeighed:
        if self.least > self.most:
            raise ValueError("the wrong way round")
        return self


TYPES = [
    *(kind for name in Catalogue.load().types if (kind := Catalogue.load().get(name))),
    EventType(ParcelSent),
    EventType(ParcelWeighed),
]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 200) | st.floats(0, 9) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
GOOD: dict[str, Any] = {
    "upload_id": "u",
    "progress": 40,
    "result": {"a": 1},
    "error": "e",
    "review_id": "r",
    "changes": {},
    "message": "m",
    "user_id": "7",
    "status": "scheduled",
    "file_id": "f",
    "parcel_id": "p",
    "parts": [{"weight": 3, "unit": "kg"}],
    "review": {},
    "level": "info",
    "Label": "abc",
    "least": 1,
    "most": 2,
}


def verdict(validate: Any, text: str) -> list[tuple[Any, Any]]:
    """Return what is wrong, by place and kind; nothing where it is in order."""
    try:
        validate(text)
    except ValidationError as refused:
        # What should be an object is told as one thing here and as another there.
        return [
            (each["loc"], each["type"].replace("model_type", "dict_type"))
            for each in refused.errors()
        ]
    return []


def promised(kind: EventType, data: object) -> list[tuple[Any, Any]]:
    """Return what is missing of the fields that have a default and are no option."""
    if not isinstance(data, dict) or kind.name == "parcel.weighed":
        return []
    names = {
        field.alias or name
        for name, field in kind.model.model_fields.items()
        if not field.is_required() and field.get_default(call_default_factory=True) is not None
    }
    missing = [(("data", name), "missing") for name in names - data.keys()]
    parts = data.get("parts")
    if kind.name == "parcel.sent" and isinstance(parts, list):
        missing += [
            (("data", "parts", at, "unit"), "missing")
            for at, part in enumerate(parts)
            if isinstance(part, dict) and "unit" not in part
        ]
    return missing


@pytest.mark.parametrize("kind", TYPES, ids=lambda kind: kind.name)
@given(data=st.data())
def test_lean_and_model_agree(kind: EventType, data: st.DataObject) -> None:
    """Whatever is changed in an event, both give the same errors at the same places; a field whose
    default is the SDK's convenience is missing where it is absent.
    """
    envelope: dict[str, Any] = {
        "type": kind.name,
        "id": "1",
        "timestamp": "2026-01-08T10:30:00Z",
        "data": dict(GOOD),
    }
    lean = lean_validator(kind.envelope).validate_json
    full = kind.envelope.model_validate_json
    assert verdict(lean, json.dumps(envelope)) == []
    for _ in range(data.draw(st.integers(1, 2))):
        where = data.draw(st.sampled_from([envelope, envelope["data"]]))
        if not isinstance(where, dict):
            break
        names = sorted({*where, "source", "traceparent", "cursor", "timestamp", "label", "at"})
        name = data.draw(st.sampled_from(names))
        if data.draw(st.booleans()):
            where[name] = data.draw(VALUES)
        else:
            where.pop(name, None)
        if "data" not in envelope:
            break
    text = json.dumps(envelope)
    expected = [*verdict(full, text), *promised(kind, envelope.get("data"))]
    assert sorted(verdict(lean, text), key=str) == sorted(expected, key=str)
