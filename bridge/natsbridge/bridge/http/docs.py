"""``/docs``: the HTTP interface as a page of plain HTML, made from the OpenAPI document.

It loads nothing, from here or from elsewhere, and runs no script: what is served beside admin
endpoints should not depend on what a foreign host answers.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from html import escape
from typing import Any, Final

from fastapi import FastAPI
from fastapi.responses import HTMLResponse

PATH: Final = "/docs"
SCHEMA: Final = "/openapi.json"

STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 52rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1f24; background: #fff }
summary { cursor: pointer; padding: .35rem 0 } details { border-top: 1px solid #d0d7de }
code, pre { font: 14px/1.45 ui-monospace, monospace } pre { overflow: auto; padding: .75rem;
  background: #f3f5f7 }
b { display: inline-block; min-width: 4.5rem }
@media (prefers-color-scheme: dark) { body { color: #e6edf3; background: #0d1117 }
  pre { background: #161b22 } details { border-color: #30363d } a { color: #79c0ff } }
"""
HEADERS: Final = {
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


def add_docs(api: FastAPI) -> None:
    """Serve the page; the document itself is the application's ``openapi_url``."""

    async def docs() -> HTMLResponse:
        return HTMLResponse(page(api.openapi()), headers=HEADERS)

    api.add_api_route(PATH, docs, include_in_schema=False)


def page(document: Mapping[str, Any]) -> str:
    """Return the page for an OpenAPI document."""
    title = escape(document["info"]["title"])
    described = escape(document["info"].get("description", ""))
    body = "\n".join(
        _operation(method.upper(), path, operation, document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width"><title>{title}</title>'
        f"<style>{STYLE}</style><h1>{title}</h1><p>{described}</p>"
        f'<p><a href="{SCHEMA.lstrip("/")}">{SCHEMA}</a> is the same for programs.</p>\n'
        f"{body}\n</html>"
    )


def _operation(
    method: str, path: str, operation: Mapping[str, Any], document: Mapping[str, Any]
) -> str:
    lines = "".join(f"<p>{line}</p>" for line in _notes(operation))
    content = operation.get("requestBody", {}).get("content", {})
    for kind, each in content.items():
        schema = json.dumps(_resolved(each.get("schema", {}), document), indent=2)
        lines += f"<p>Body, <code>{escape(kind)}</code>:</p><pre>{escape(schema)}</pre>"
    answers = ", ".join(
        f"{escape(status)} {escape(each.get('description', ''))}"
        for status, each in operation.get("responses", {}).items()
    )
    summary = escape(operation.get("summary", ""))
    return (
        f"<details><summary><b>{escape(method)}</b><code>{escape(path)}</code> – {summary}"
        f"</summary>{lines}<p>Answers: {answers}</p></details>"
    )


def _notes(operation: Mapping[str, Any]) -> Iterator[str]:
    if "security" in operation:
        yield "Needs <code>Authorization: Bearer &lt;token&gt;</code>."
    for each in operation.get("parameters", ()):
        yield f"<code>{escape(each['name'])}</code> in the {escape(each['in'])}"


def _resolved(schema: Any, document: Mapping[str, Any], depth: int = 0) -> Any:
    """Return a schema with what it refers to put in, a few levels deep."""
    if isinstance(schema, dict):
        name = schema.get("$ref")
        if isinstance(name, str) and depth < 4:
            found = document["components"]["schemas"][name.rpartition("/")[2]]
            return _resolved(found, document, depth + 1)
        return {key: _resolved(value, document, depth) for key, value in schema.items()}
    if isinstance(schema, list):
        return [_resolved(each, document, depth) for each in schema]
    return schema
