"""The words: what README and docs say is what the code has."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from pathlib import Path

import pytest

from natsbridge.bridge.cli import main as cli
from natsbridge.bridge.cli import settings as settings_table
from natsbridge.bridge.settings import SECTIONS
from natsbridge.schemas import events
from natsbridge.schemas.catalogue import Catalogue, declared
from natsbridge.schemas.codes import (
    CLOSE_CODES,
    ErrorCode,
    GapReason,
    PatternReason,
    PolicyReason,
    RejectReason,
    ResumeReason,
)
from natsbridge.schemas.commands import CLIENT_MESSAGE_TYPES

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])
README = (ROOT / "README.md").read_text()
PROTOCOL = (ROOT / "docs/protocol.md").read_text()
SERVICES = (ROOT / "docs/services.md").read_text()


def rows(text: str) -> dict[str, list[str]]:
    """Return the rows of all tables, by their first cell without its backticks."""
    found = {}
    for line in text.splitlines():
        if line.startswith("|"):
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            found[cells[0].strip("`")] = cells[1:]
    return found


def first_column(text: str, title: str) -> set[str]:
    """Return the first cells of the one table whose first column has this title."""
    heading = rf"^\| {re.escape(title)} \|.*\n\|[-|]+\n"
    [found] = re.findall(rf"{heading}((?:\|.*\n)+)", text, re.MULTILINE)
    return set(rows(found))


def snippets(text: str, marker: str) -> list[str]:
    """Return the Python blocks that follow this marker."""
    return re.findall(rf"<!-- {marker} -->\n```python\n(.*?)```", text, re.DOTALL)


def test_settings_table_is_the_generated_one() -> None:
    """To mend it: ``python -m natsbridge.bridge.cli settings --write README.md``."""
    assert README.count(settings_table.markdown()) == 1


def test_every_error_code_is_explained() -> None:
    """The protocol page has a row for each error code, and none for another."""
    section = PROTOCOL.partition("\n## Errors")[2].partition("\n## Close codes")[0]
    assert set(rows(section)) - {"code", "---"} == set(ErrorCode)


def test_every_close_code_is_explained() -> None:
    """The protocol page has each close code with its name, and what a client does about it."""
    section = PROTOCOL.partition("\n## Close codes")[2].partition("\n## Limits")[0]
    table = {int(code): cells for code, cells in rows(section).items() if code.isdigit()}
    assert set(table) == set(CLOSE_CODES)
    for code, row in CLOSE_CODES.items():
        name, _, does = table[code]
        assert name.strip("`–") == row.name
        assert ("reconnects" in does) is row.reconnect
        assert does.startswith("stops") is not row.reconnect


def test_every_reason_is_explained() -> None:
    """Each kind has a table: of refused events in the page for services, all else in the other."""
    assert first_column(PROTOCOL, "reason of a refused pattern") == set(PatternReason)
    assert first_column(PROTOCOL, "reason of a refused pace") == set(PolicyReason)
    assert first_column(PROTOCOL, "reason of a `resume.completed`") == set(ResumeReason)
    assert first_column(PROTOCOL, "reason of a `gap`") == set(GapReason)
    assert first_column(SERVICES, "reason") == set(RejectReason)


def test_every_message_and_event_is_listed() -> None:
    """The protocol page has each message of a client, and each event type with its traits."""
    table = rows(PROTOCOL)
    assert set(table) >= CLIENT_MESSAGE_TYPES
    catalogue = Catalogue.load()
    for name in catalogue.types:
        kind = catalogue.get(name)
        assert kind is not None
        durable, resource, data = table[name]
        assert durable == ("yes" if kind.traits.durable else "no")
        assert resource.strip("`–") == (kind.traits.resource or "")
        named = set(re.findall(r"`(\w+)`", data))
        assert named == set(kind.model.model_fields) - {"timestamp"}


def test_every_variable_that_is_named_exists() -> None:
    """No page names a setting that the code does not have."""
    known = {
        field.alias for section in SECTIONS.values() for field in section.model_fields.values()
    }
    settings = importlib.import_module("natsbridge.publishers.settings")
    known |= {field.alias for field in settings.PublisherSettings.model_fields.values()}
    known |= {"BRIDGE_TOKEN", "BRIDGE_PASSWORD"}
    compose = (ROOT / "docker-compose.yml").read_text()
    known |= set(re.findall(r"\$\{(BRIDGE_\w+)", compose))
    for page in PAGES:
        for name in re.findall(r"\bBRIDGE_[A-Z_]+[A-Z]\b", page.read_text()):
            assert name in known or f"{name}_…" in page.read_text(), (page.name, name)


def test_every_command_that_is_named_exists(capsys: pytest.CaptureFixture[str]) -> None:
    """Each ``natsbridge …`` command in the pages is one of the program's."""
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    commands = set(re.findall(r"^    (\w+)", capsys.readouterr().out, re.MULTILINE))
    assert "serve" in commands
    for page in PAGES:
        for line in re.findall(
            r"(?:`|^|&& |bin/)natsbridge ([a-z]+)\b", page.read_text(), re.MULTILINE
        ):
            assert line in commands, (page.name, line)
    listed = {cells.split()[1] for cells in rows(README) if cells.startswith("natsbridge ")}
    assert listed == commands


def test_links_lead_somewhere() -> None:
    """Each relative link is to a file that is there, and each anchor to a heading in it."""
    for page in PAGES:
        prose = re.sub(r"```.*?```", "", page.read_text(), flags=re.DOTALL)
        for target in re.findall(r"\]\(([^)\s]+)\)", prose):
            if target.startswith(("http://", "https://")):
                continue
            name, _, anchor = target.partition("#")
            path = (page.parent / name) if name else page
            assert path.is_file(), (page.name, target)
            if anchor:
                titles = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
                anchors = {
                    re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-")
                    for title in titles
                }
                assert anchor in anchors, (page.name, target)


def test_no_page_promises_too_much() -> None:
    """What no broker of this kind can give is promised nowhere."""
    for page in PAGES:
        assert not re.search(r"exactly.once", page.read_text(), re.IGNORECASE), page.name


@pytest.mark.parametrize("page", ["README.md", "docs/extending.md"])
def test_event_types_of_the_pages_can_be_used(page: str) -> None:
    """The modules that the pages show are catalogue modules, as they stand."""
    [source] = snippets((ROOT / page).read_text(), "catalogue")
    module = type(events)("shop_events")
    code = compile(source, "shop_events", "exec", dont_inherit=True)
    exec(code, vars(module))  # noqa: S102  # our own page
    models = declared(module)
    assert models
    assert len(Catalogue([*declared(events), *models])) == 12 + len(models)


def test_publisher_of_the_readme_calls_what_the_sdk_has() -> None:
    """Each method that the README calls takes the arguments that it gives."""
    publishers = importlib.import_module("natsbridge.publishers")
    [source] = snippets(README, "publisher")
    tree = ast.parse(source)
    [function] = [node for node in tree.body if isinstance(node, ast.AsyncFunctionDef)]
    calls = [
        node
        for node in ast.walk(function)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and isinstance(node.func.value, ast.Name)
        and node.func.value.id == "uploads"
    ]
    assert len(calls) == 2
    for call in calls:
        assert isinstance(call.func, ast.Attribute)
        method = getattr(publishers.UploadEvents, call.func.attr)
        keywords = {each.arg: None for each in call.keywords if each.arg}
        inspect.signature(method).bind(None, *call.args, **keywords)
