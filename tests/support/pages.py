"""The pages under ``docs/``: the programs that they show, for tests to run."""

from __future__ import annotations

import re
from typing import Final

from tests.support.bridge import ROOT

DOCS: Final = ROOT / "docs"


def block(page: str, name: str) -> str:
    """Return the code block of a page (``services``) that follows the comment with this name."""
    text = (DOCS / f"{page}.md").read_text()
    [code] = re.findall(rf"<!-- {re.escape(name)} -->\n```\w+\n(.*?)```", text, re.DOTALL)
    return str(code)
