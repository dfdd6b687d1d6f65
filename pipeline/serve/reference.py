"""The API's reference as a page of ours, from its OpenAPI schema: no script, nothing from outside."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pipeline.report_page import frame
from pipeline.report_photo import text_html

Json = Mapping[str, Any]


def reference_html(schema: Json) -> str:
    """Every endpoint with what it takes and gives, then every shape that goes over the wire."""
    calls = [_call(path, method, call) for path, methods in schema["paths"].items() for method, call in methods.items()]
    shapes = [_shape(name, shape) for name, shape in schema["components"]["schemas"].items()]
    top = (
        f'<header><h1>{text_html(schema["info"]["title"])}</h1><p class="state soft">'
        f'{text_html(schema["info"]["description"])} · <a href="openapi.json">openapi.json</a> · <a href="./">the page</a>'
        "</p></header>"
    )
    return frame(
        "outfinder – HTTP API",
        f'{top}<main>{"".join(calls)}<h2 id="shapes">Shapes</h2>{"".join(shapes)}</main>',
        sheets=("assets/look.css", "assets/page.css"),
    )


def _call(path: str, method: str, call: Json) -> str:
    asked = [_row(one["name"], one["schema"], one.get("description", "")) for one in call.get("parameters", [])]
    body = call.get("requestBody", {})
    for kind, content in body.get("content", {}).items():
        asked.append(_row(kind, content["schema"], body.get("description", "")))
    given = [
        f"<li><b>{status}</b> {text_html(answer['description'])} {_kinds(answer)}</li>"
        for status, answer in call["responses"].items()
    ]
    takes = f"<dl>{''.join(asked)}</dl>" if asked else ""
    return (
        f'<article class="card call"><h2><code>{method.upper()} {text_html(path)}</code></h2>'
        f"<p>{text_html(call.get('description', ''))}</p>{takes}<ul>{''.join(given)}</ul></article>"
    )


def _shape(name: str, shape: Json) -> str:
    rows = (_row(part, told, told.get("description", "")) for part, told in shape.get("properties", {}).items())
    return (
        f'<article class="card call" id="{text_html(name)}"><h3>{text_html(name)}</h3>'
        f"<p>{text_html(shape.get('description', ''))}</p><dl>{''.join(rows)}</dl></article>"
    )


def _row(name: str, schema: Json, said: str) -> str:
    bounds = {"minimum": "from", "maximum": "to", "maxLength": "at most", "default": "if none"}
    parts: Iterable[Json] = (schema, *schema.get("anyOf", ()))
    told = [f"{word} {json.dumps(part[key])}" for part in parts for key, word in bounds.items() if key in part]
    kind = ", ".join([_kind(schema), *map(text_html, told)])
    return f'<dt><code>{text_html(name)}</code></dt><dd>{text_html(said)} <span class="soft">{kind}</span></dd>'


def _kinds(answer: Json) -> str:
    return ", ".join(
        f"{text_html(kind)} {_kind(content.get('schema', {}))}" for kind, content in answer.get("content", {}).items()
    )


def _kind(schema: Json) -> str:
    """A schema in a few words; shapes are links."""
    if "$ref" in schema:
        name = text_html(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "anyOf" in schema:
        return " or ".join(_kind(part) for part in schema["anyOf"] if part.get("type") != "null")
    if "items" in schema:
        return f"list of {_kind(schema['items'])}"
    return text_html(schema.get("format") or str(schema.get("type", "")))
