"""The exceptions of this package.

::

    SchemaError
    ├── IdError             an id that can't become a subject token, or a token that is none
    ├── SubjectError        a subject that is not one of ours
    ├── PatternError        a subscription pattern that is malformed
    ├── CursorError         a cursor that is none of this bridge's
    ├── CatalogueError      a catalogue module that can't be used
    └── EventError          an event that its envelope or model refuses: ``reason``, ``field``
"""

from __future__ import annotations


class SchemaError(ValueError):
    """Root of what this package raises."""


class IdError(SchemaError):
    """An id that can't become a subject token, or a token that is not the encoding of an id."""


class SubjectError(SchemaError):
    """A subject that does not belong to this contract."""


class PatternError(SchemaError):
    """A subscription pattern that is malformed."""


class CursorError(SchemaError):
    """A text that is no cursor."""


class CatalogueError(SchemaError):
    """A module named as a catalogue that can't be imported, or that declares its events wrongly."""


class EventError(SchemaError):
    """An event that must not reach a client.

    ``reason`` is one of :class:`natsbridge.schemas.codes.RejectReason`; ``field`` is the dotted
    path of the
    first field that was refused (``data.progress``), empty where no field is to blame.
    """

    def __init__(self, reason: str, detail: str, field: str = "") -> None:
        super().__init__(f"{reason}: {field}: {detail}" if field else f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
        self.field = field
