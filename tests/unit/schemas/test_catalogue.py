"""The catalogue: the built-in types, those of a user's own module, and modules that are wrong."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from natsbridge.schemas import events
from natsbridge.schemas.catalogue import Catalogue, declared
from natsbridge.schemas.codes import RejectReason
from natsbridge.schemas.errors import CatalogueError, EventError
from natsbridge.schemas.patterns import Pattern
from tests.support import own_events
from tests.support.own_events import InvoicePaid

Write = Callable[[str, str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Write a module of this name and text that can be imported during the test."""
    # Not syspath_prepend: it asks for pkg_resources, of which a test's package has a stand-in.
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    importlib.invalidate_caches()
    before = set(sys.modules)

    def write_module(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    yield write_module
    for name in set(sys.modules) - before:
        del sys.modules[name]


def test_a_module_of_ones_own_adds_its_types() -> None:
    """Its types stand beside the built-in ones: looked up, expanded, checked."""
    catalogue = Catalogue.load([own_events.__name__])
    assert len(catalogue) == len(Catalogue.load()) + 3
    assert "invoice.paid" in catalogue
    assert catalogue.expand(Pattern.parse("invoice")) == ("invoice.draft", "invoice.paid")
    paid = catalogue.get("invoice.paid")
    assert paid is not None
    text = (
        b'{"type":"invoice.paid","id":"1","timestamp":"2026-01-01T00:00:00Z",'
        b'"data":{"invoice_id":"9","amount_cents":1}}'
    )
    assert paid.read(text).data == InvoicePaid(invoice_id="9", amount_cents=1)


def test_a_type_is_known_only_where_its_module_is_named() -> None:
    """Without the setting an own type is unknown, and its data are refused."""
    catalogue = Catalogue.load()
    assert catalogue.get("invoice.paid") is None
    with pytest.raises(EventError) as refused:
        catalogue.of(InvoicePaid(invoice_id="9", amount_cents=1))
    assert (refused.value.reason, refused.value.field) == (RejectReason.UNKNOWN_EVENT, "type")


def test_the_type_of_data_is_found() -> None:
    """Data of a known model have their type; another model that claims the same name has not."""
    catalogue = Catalogue.load([own_events.__name__])
    assert catalogue.of(InvoicePaid(invoice_id="9", amount_cents=1)).name == "invoice.paid"

    class Imposter(InvoicePaid):
        """Inherits the traits, and is not what was declared."""

    with pytest.raises(EventError):
        catalogue.of(Imposter(invoice_id="9", amount_cents=1))


def test_a_type_declared_twice_is_refused(write: Write) -> None:
    """Two models of one name: a CatalogueError that names the type."""
    name = write(
        "own_twice",
        "from natsbridge.schemas.events import EventData, event\n"
        "@event('upload.progress')\nclass Mine(EventData):\n    upload_id: str\n",
    )
    with pytest.raises(CatalogueError, match=r"upload\.progress is declared twice"):
        Catalogue.load([name])


def test_a_missing_module_is_named() -> None:
    """A module that can't be found: a CatalogueError that names it."""
    with pytest.raises(CatalogueError, match="'no_such_module_here'"):
        Catalogue.load(["no_such_module_here"])


@pytest.mark.parametrize("name", ["", ".", "..x"])
def test_what_is_no_module_name_is_named(name: str) -> None:
    """A name that Python can't import at all is a CatalogueError too."""
    with pytest.raises(CatalogueError):
        Catalogue.load([name])


@pytest.mark.parametrize(
    "text",
    [
        "1 / 0\n",
        "def (\n",
        "import no_such_module_there\n",
        "raise RuntimeError('at import')\n",
    ],
)
def test_a_module_that_fails_at_import_is_named(write: Write, text: str) -> None:
    """Whatever a user's module raises when it is imported, the error names the module."""
    name = write("own_broken", text)
    with pytest.raises(CatalogueError, match="own_broken"):
        Catalogue.load([name])


def test_a_module_without_types_is_named(write: Write) -> None:
    """A module that declares nothing, or only passes built-in types on, is a mistake."""
    name = write("own_empty", "from natsbridge.schemas.events import UploadProgress, EventData\n")
    with pytest.raises(CatalogueError, match="'own_empty' declares no event type"):
        Catalogue.load([name])


def test_a_wrong_declaration_in_a_module_is_told(write: Write) -> None:
    """An own type that contradicts itself stops the start with its reason."""
    name = write(
        "own_wrong",
        "from natsbridge.schemas.events import EventData, event\n"
        "@event('Invoice')\nclass Mine(EventData):\n    x: str\n",
    )
    with pytest.raises(CatalogueError, match="Invoice"):
        Catalogue.load([name])


def test_models_come_in_their_order() -> None:
    """Only models with traits of their own count, in the order of the module."""
    assert [model.traits.type for model in declared(own_events)] == [
        "invoice.paid",
        "invoice.draft",
        "audit.recorded",
    ]
    assert len(declared(events)) == 12


def test_each_type_has_a_json_schema() -> None:
    """The schema of a type is that of its envelope, with the type as a constant."""
    schemas = Catalogue.load().json_schema()
    assert sorted(schemas) == list(Catalogue.load().types)
    for name, schema in schemas.items():
        assert schema["properties"]["type"]["const"] == name
        assert {"type", "id", "timestamp", "data"} <= set(schema["required"])
