"""The page for services: the table is the catalogue's, the examples are valid, ``enc`` works."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from natsbridge.schemas.catalogue import Catalogue
from natsbridge.schemas.commands import CommandRequest
from natsbridge.schemas.cursors import CURSOR_ROOM
from natsbridge.schemas.errors import IdError
from natsbridge.schemas.events import EVERY_AUDIENCE
from natsbridge.schemas.subjects import MAX_ID_BYTES, Root, Subjects, decode_id, encode_id
from tests.support.pages import DOCS, block

PAGE: Final = (DOCS / "services.md").read_text()
TOO_LONG: Final = "é" * (MAX_ID_BYTES // 6 + 1)
OWN_FIELD: Final = "timestamp"
"""Every model has it, and nobody needs it."""


def kind_of(schema: dict[str, Any]) -> str:
    """Return in words what a field of a JSON Schema may be."""
    if "enum" in schema:
        *most, last = (f"`{value}`" for value in schema["enum"])
        return f"{', '.join(most)} or {last}"
    match schema:
        case {"format": "date-time"}:
            return "time"
        case {"type": "string", "minLength": 1, "maxLength": 128}:
            return "id"
        case {"type": "string", "minLength": least, "maxLength": most}:
            return f"text, {least}–{most} characters"
        case {"type": "string"}:
            return "text"
        case {"type": "integer", "minimum": least, "maximum": most}:
            return f"integer {least}–{most}"
        case {"type": "object"}:
            return "object"
    raise AssertionError(f"the page has no words for {schema}")


def row_of(name: str, schema: dict[str, Any]) -> str:
    """Return the row of one event type."""
    kind = Catalogue.load().get(name)
    assert kind is not None
    [model] = schema["$defs"].values()
    required, optional = [], []
    for field, given in model["properties"].items():
        [of] = [each for each in given.get("anyOf", [given]) if each.get("type") != "null"]
        told = f"`{field}`: {kind_of(of)}"
        if field in model["required"]:
            required.append(told)
        elif field != OWN_FIELD:
            optional.append(told)
    root = Root.EVENTS if kind.traits.durable else Root.SERVICE
    resource = f"`{kind.traits.resource}`" if kind.traits.resource else "–"
    cells = (
        f"`{name}`",
        f"`{root}`",
        resource,
        *("; ".join(f) or "–" for f in (required, optional)),
    )
    return f"| {' | '.join(cells)} |"


def test_the_table_of_types_is_the_catalogues() -> None:
    """Root, resource, fields, JSON types, limits: as the bridge checks them."""
    schemas = Catalogue.load().json_schema()
    wanted = "\n".join(row_of(name, schema) for name, schema in schemas.items())
    found = PAGE.partition("<!-- types -->\n")[2].partition("<!-- /types -->")[0]
    assert "\n".join(found.splitlines()[2:]) == wanted, f"the table should be:\n{wanted}"


def test_what_the_page_says_of_all_types() -> None:
    """Each may go to every audience, and has an optional ``timestamp`` beside the table's."""
    catalogue = Catalogue.load()
    for name in catalogue.types:
        kind = catalogue.get(name)
        assert kind is not None
        assert kind.traits.audiences == EVERY_AUDIENCE
        assert not kind.model.model_fields[OWN_FIELD].is_required()


def test_the_envelope_is_valid() -> None:
    """The example is what the bridge takes on the subject that stands above it."""
    [(subject, text)] = re.findall(r"<!-- envelope: (\S+) -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    address = Subjects().parse(subject)
    kind = Catalogue.load().get(address.event_type)
    assert kind is not None
    assert kind.traits.durable is subject.startswith(f"{Root.EVENTS}.")
    kind.check(text.encode(), decode_id(address.resource))


def test_the_first_event_is_valid() -> None:
    """So is the one for the ``nats`` command."""
    [(subject, text)] = re.findall(r"nats pub (\S+) \\\n +'(.*)'\n", PAGE)
    address = Subjects().parse(subject)
    kind = Catalogue.load().get(address.event_type)
    assert kind is not None
    assert not kind.traits.durable
    kind.check(text.encode(), decode_id(address.resource))


def test_the_command_is_one() -> None:
    """The example is a request as the bridge writes it, and agrees with its subject."""
    [(subject, text)] = re.findall(r"<!-- command: (\S+) -->\n```json\n(.*?)```", PAGE, re.DOTALL)
    asked = CommandRequest.model_validate_json(text)
    assert Subjects().parse_command(subject) == (asked.command, asked.user_id, asked.resource_id)
    section = PAGE.partition("\n## Commands\n")[2].partition("\n**Subscribe**")[0]
    assert re.findall(r"^\| `(\w+)` \|", section, re.M) == list(CommandRequest.model_fields)


def test_the_room_of_a_cursor() -> None:
    """The number of bytes that a durable event leaves for it."""
    assert f"{CURSOR_ROOM} bytes smaller" in PAGE


def vectors() -> dict[str, str]:
    """Return the ids of the page and their tokens."""
    section = PAGE.partition("<!-- vectors -->\n")[2].partition("\n\nAn empty id")[0]
    return dict(re.findall(r"^\| `(.+)` \| `(.+)` \|$", section, re.M))


def test_the_vectors_are_right() -> None:
    """What the page writes is what the bridge reads."""
    found = vectors()
    assert len(found) >= 12
    assert {given: encode_id(given) for given in found} == found
    assert {decode_id(token) for token in found.values()} == set(found)
    for bad in ("", TOO_LONG, "\ud83d"):
        with pytest.raises(IdError):
            encode_id(bad)


def run(command: list[str], folder: Path) -> list[str]:
    """Run a program; return the lines that it writes."""
    done = subprocess.run(
        command, cwd=folder, capture_output=True, encoding="utf-8", timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def python(folder: Path, ids: list[str]) -> list[str]:
    """Encode with the page's Python; a bad id gives the line ``bad``."""
    (folder / "ids.py").write_text(block("services", "ids.py"))
    (folder / "main.py").write_text(
        "import json, sys\nfrom ids import enc\n"
        "for id in json.loads(sys.argv[1]):\n"
        "    try:\n        print(enc(id))\n"
        "    except ValueError:\n        print('bad')\n"
    )
    return run([sys.executable, "main.py", json.dumps(ids)], folder)


def node(folder: Path, ids: list[str]) -> list[str]:
    """Encode with the page's JavaScript."""
    (folder / "ids.mjs").write_text(block("services", "ids.mjs"))
    (folder / "main.mjs").write_text(
        'import { enc } from "./ids.mjs";\n'
        "for (const id of JSON.parse(process.argv[2])) {\n"
        "  try { console.log(enc(id)); }\n"
        '  catch (error) { if (!(error instanceof RangeError)) throw error; console.log("bad"); }\n'
        "}\n"
    )
    return run(["node", "main.mjs", json.dumps(ids)], folder)


def java(folder: Path, ids: list[str]) -> list[str]:
    """Encode with the page's Java."""
    texts = ", ".join(json.dumps(each) for each in ids)
    (folder / "Ids.java").write_text(
        "import java.nio.*;\nimport java.nio.charset.*;\n"
        f"class Ids {{\n{block('services', 'Ids.java')}\n"
        "public static void main(String[] arguments) {\n"
        f"for (String id : new String[] {{ {texts} }}) {{\n"
        "try { System.out.println(enc(id)); }\n"
        "catch (CharacterCodingException | IllegalArgumentException e) {\n"
        'System.out.println("bad"); }\n'
        "} } }\n"
    )
    return run(["java", "Ids.java"], folder)


def rust(folder: Path, ids: list[str]) -> list[str]:
    """Encode with the page's Rust, whose text is never half a surrogate pair."""
    texts = ", ".join("None" if "\ud83d" in each else f'Some("{each}")' for each in ids)
    (folder / "main.rs").write_text(
        f"{block('services', 'ids.rs')}\nfn main() {{\n"
        f"for id in [{texts}] {{\n"
        'println!("{}", id.map_or(Err("bad"), enc).unwrap_or("bad".to_string()));\n'
        "} }\n"
    )
    run(["rustc", "-o", "main", "main.rs"], folder)
    return run([str(folder / "main")], folder)


@pytest.mark.parametrize(
    ("program", "encode"),
    [("python", python), ("node", node), ("java", java), ("rustc", rust)],
    ids=["python", "node", "java", "rust"],
)
def test_enc_in_every_language(
    tmp_path: Path, program: str, encode: Callable[[Path, list[str]], list[str]]
) -> None:
    """Each function of the page gives the table's tokens and refuses what is no id."""
    if program != "python" and shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    found = vectors()
    bad = ["", TOO_LONG, "x" * (MAX_ID_BYTES + 1), "\ud83d"]
    longest = "x" * MAX_ID_BYTES
    told = encode(tmp_path, [*found, longest, *bad])
    assert told == [*found.values(), longest, *["bad"] * len(bad)]
