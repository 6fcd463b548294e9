"""Ids in paths: any characters, percent-encoded, ``/`` too.

The server decodes a path before it is routed, so that an encoded ``/`` in an id would become one
of the path's own. Where ids stand, the path is routed as it was sent, and each id is decoded alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Final
from urllib.parse import unquote

from fastapi import Path
from pydantic import AfterValidator
from starlette.types import ASGIApp, Receive, Scope, Send

WITH_IDS: Final = (b"/ws/users/", b"/ws/connections/")


def routed_path(scope: Mapping[str, Any]) -> str:
    """Return the path by which a request is routed."""
    raw = scope.get("raw_path")
    if raw is not None and raw.startswith(WITH_IDS):
        return str(raw, "latin-1")
    path: str = scope["path"]
    return path


class EncodedIds:
    """The middleware."""

    def __init__(self, app: ASGIApp) -> None:
        self._app: Final = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if "path" in scope:
            scope = {**scope, "path": routed_path(scope)}
        await self._app(scope, receive, send)


def _decoded(text: str) -> str:
    try:
        return unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError("is not UTF-8, percent-encoded") from None


Id = Annotated[str, Path(description="percent-encoded, `/` as `%2F`"), AfterValidator(_decoded)]
"""An id in a path, decoded."""
