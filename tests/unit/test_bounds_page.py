"""The page of bounds: each row names tests that exist, and settings that the program has."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from natsbridge.bridge.settings import SECTIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/bounds.md").read_text()
COLUMNS = ["what", "who can cause it", "bound", "setting", "test"]
SECTIONS_OF_PAGE = ["Unauthenticated peers", "Authenticated clients", "Publishers and NATS"]


def rows(section: str) -> list[list[str]]:
    """Return the cells of each row of the one table in this section, the titles first."""
    text = re.split(r"^## ", PAGE.partition(f"\n## {section}\n")[2], maxsplit=1, flags=re.M)[0]
    lines = [line for line in text.splitlines() if line.startswith("|")]
    return [
        [cell.strip() for cell in line[1:-1].split(" | ")] for line in lines if "---" not in line
    ]


ROWS = [(section, row) for section in SECTIONS_OF_PAGE for row in rows(section)[1:]]


def defined(path: Path) -> set[str]:
    """Return the tests of a file: ``name``, or ``Class::name``; state machines by their class."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.ClassDef):
            found |= {
                f"{node.name}::{each.name}"
                for each in node.body
                if isinstance(each, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.Assign):
            found |= {each.id for each in node.targets if isinstance(each, ast.Name)}
    return {name for name in found if name.rpartition("::")[2].startswith(("test", "Test"))}


@pytest.mark.parametrize("section", SECTIONS_OF_PAGE)
def test_each_section_is_one_table(section: str) -> None:
    """All have the same columns, each with something in it."""
    titles, *found = rows(section)
    assert titles == COLUMNS
    assert len(found) > 15
    for row in found:
        assert len(row) == len(COLUMNS), row
        assert all(row), row


@pytest.mark.parametrize(("section", "row"), ROWS, ids=[row[0][:60] for _, row in ROWS])
def test_each_row_has_a_test_that_exists(section: str, row: list[str]) -> None:
    """It is named by its file and its function, and by nothing else."""
    named = row[4].split(", ")
    for each in named:
        path, _, test = each.strip("`").partition("::")
        assert (ROOT / path).is_file(), (section, each)
        assert test in defined(ROOT / path), (section, each)


@pytest.mark.parametrize(("section", "row"), ROWS, ids=[row[0][:60] for _, row in ROWS])
def test_each_setting_exists(section: str, row: list[str]) -> None:
    """It is a variable of the bridge, or a limit of the system; a dash where there is none."""
    known = {field.alias for each in SECTIONS.values() for field in each.model_fields.values()}
    for each in row[3].split(", "):
        assert each in ("–", "`ulimit -n`") or each.strip("`") in known, (section, each)
