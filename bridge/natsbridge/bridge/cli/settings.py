"""The table of settings, made from the settings themselves: for the README, ``check`` and people.

``natsbridge settings --write README.md`` renews what stands between the README's markers.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic_core import PydanticUndefined

from natsbridge.bridge.cli.terminal import CommandError, say
from natsbridge.bridge.settings import SECTIONS

BEGIN: Final = "<!-- settings -->"
END: Final = "<!-- /settings -->"
TITLES: Final = {
    "bus": "NATS",
    "server": "Server",
    "identity": "Identity",
    "limits": "Limits, counted per process unless they say otherwise",
    "stream": "The stream, where the bridge makes it",
}


@dataclass(frozen=True, slots=True)
class Setting:
    """One variable: the section and field it fills, what it is without it, what it means."""

    section: str
    field: str
    name: str
    default: str
    meaning: str


def settings() -> Iterator[Setting]:
    """Return every setting, in the order of the sections."""
    for section, model in SECTIONS.items():
        for field, info in model.model_fields.items():
            default = info.get_default(call_default_factory=True)
            yield Setting(
                section,
                field,
                info.alias or field,
                "" if default is PydanticUndefined else written(default),
                info.description or "",
            )


def written(value: Any) -> str:
    """Return a value the way its variable is written; empty for one that is not there."""
    match value:
        case _ if value in (None, {}):
            return ""
        case bool():
            return "true" if value else "false"
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(map(str, value))
        case _:
            return str(value)


def markdown() -> str:
    """Return the table for the README, with its markers."""
    lines = [BEGIN]
    section = ""
    for each in settings():
        if each.section != section:
            section = each.section
            lines += ["", f"**{TITLES[section]}**", ""]
            lines += ["| variable | default | meaning |", "|---|---|---|"]
        default = f"`{each.default}`" if each.default else ""
        lines.append(f"| `{each.name}` | {default} | {each.meaning} |")
    return "\n".join([*lines, "", END])


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--markdown", action="store_true", help="as the README's table")
    parser.add_argument("--write", metavar="FILE", help="renew the table in this file")


def main(options: argparse.Namespace) -> int:
    """Run the command with its parsed arguments."""
    return run(as_markdown=options.markdown, write=options.write)


def run(*, as_markdown: bool, write: str | None) -> int:
    """Print the table, or renew it in a file."""
    if write is not None:
        _renew(Path(write))
    elif as_markdown:
        say(markdown())
    else:
        width = max(len(each.name) for each in settings())
        for each in settings():
            default = f" [{each.default}]" if each.default else ""
            say(f"{each.name:<{width}}  {each.meaning}{default}")
    return 0


def _renew(path: Path) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror}") from None
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise CommandError(f"{path} has no {BEGIN} … {END}")
    path.write_text(before + markdown() + after, encoding="utf-8")
