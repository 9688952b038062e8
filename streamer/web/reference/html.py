"""Render the OpenAPI document as a page that needs no script: text, tables and links.

It is for our own document only, of which it knows what is in it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from typing import Any, Final

__all__ = ["page"]

# As the playground, the page has the assets of its own origin only.
HEAD: Final = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} {version}: the HTTP interface</title>
<link rel="icon" type="image/svg+xml" href="static/playground/icon.svg">
<link rel="stylesheet" href="static/playground/docs.css">
</head>
<body>
"""

REF: Final = "#/components/"
Part = Mapping[str, Any]


def page(document: Part) -> str:
    """Return the HTML of a document's page."""
    info = document["info"]
    parts = [HEAD.format(title=escape(info["title"]), version=escape(info["version"]))]
    parts.append(f"<nav aria-label='Contents'>{_contents(document)}</nav><main>")
    parts.append(f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>")
    parts.append(_text(info["description"]))
    parts.append(
        f"<p>All addresses are below <code>{escape(document['servers'][0]['url'])}</code>. This "
        "page is made from <a href='openapi.json'>openapi.json</a> (OpenAPI 3.1).</p>"
    )
    for tag in document["tags"]:
        parts.append(f"<h2>{_text(tag['description'], 'span')}</h2>")
        for path, method, operation in _operations(document, tag["name"]):
            parts.append(_operation(document, path, method, operation))
    parts.append("<h2 id='types'>The types</h2>")
    for name, schema in document["components"]["schemas"].items():
        parts.append(_type(name, schema))
    parts.append("</main></body></html>\n")
    return "\n".join(parts)


def _operations(document: Part, tag: str) -> Iterable[tuple[str, str, Part]]:
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if tag in operation["tags"]:
                yield path, method, operation


def _contents(document: Part) -> str:
    groups = []
    for tag in document["tags"]:
        links = "".join(
            f"<li><a href='#{operation['operationId']}'>{_method(method)} {escape(path)}</a></li>"
            for path, method, operation in _operations(document, tag["name"])
        )
        groups.append(f"<h2>{escape(tag['name'])}</h2><ul>{links}</ul>")
    names = document["components"]["schemas"]
    links = "".join(f"<li>{_link(name)}</li>" for name in names)
    return "".join(groups) + f"<h2>types</h2><ul>{links}</ul>"


def _method(method: str) -> str:
    return f"<b class='method {method}'>{method.upper()}</b>"


def _operation(document: Part, path: str, method: str, operation: Part) -> str:
    parts = [
        f"<section id='{operation['operationId']}'>",
        f"<h3>{_method(method)} <code>{escape(path)}</code></h3>",
        f"<p><strong>{_inline(operation['summary'])}.</strong></p>",
        _text(operation.get("description", "")),
    ]
    if operation["parameters"]:
        rows = [
            (
                f"<code>{escape(one['name'])}</code>{_required(one['required'])}",
                escape(one["in"]),
                _shape(one["schema"]),
                _inline(one["description"]),
            )
            for one in operation["parameters"]
        ]
        parts.append(_table("Parameters", ("name", "in", "type", "meaning"), rows))
    if (body := operation.get("requestBody")) is not None:
        parts.append(f"<h4>Body</h4>{_text(body['description'])}{_content(body['content'])}")
    answers = []
    for status, found in operation["responses"].items():
        response = _resolved(document, found)
        answers.append(
            (
                f"<code>{status}</code>",
                f"{_inline(response['description'])}{_content(response.get('content', {}))}",
                _headers(response.get("headers", {})),
            )
        )
    parts.append(_table("Answers", ("status", "meaning", "headers"), answers))
    parts.append("</section>")
    return "\n".join(parts)


def _resolved(document: Part, part: Part) -> Part:
    ref = part.get("$ref")
    if ref is None:
        return part
    kind, name = ref.removeprefix(REF).split("/")
    found: Part = document["components"][kind][name]
    return found


def _content(content: Part) -> str:
    parts = []
    for media, described in content.items():
        shape = _shape(described["schema"]) if "schema" in described else "bytes"
        said = _inline(described.get("schema", {}).get("description", ""))
        parts.append(f"<div class='media'><code>{escape(media)}</code>: {shape} {said}</div>")
        for name, example in described.get("examples", {}).items():
            text = escape(json.dumps(example["value"], indent=2, ensure_ascii=False))
            parts.append(f"<details><summary>{escape(name)}</summary><pre>{text}</pre></details>")
    return "".join(parts)


def _headers(headers: Part) -> str:
    rows = (
        f"<dt><code>{escape(name)}</code>{'' if header['required'] else ' (not always)'}</dt>"
        f"<dd>{_inline(header['description'])}</dd>"
        for name, header in headers.items()
    )
    return f"<dl>{''.join(rows)}</dl>" if headers else ""


def _type(name: str, schema: Part) -> str:
    required = schema.get("required", [])
    rows = [
        (
            f"<code>{escape(field)}</code>{_required(field in required)}",
            _shape(described),
            _inline(described.get("description", "")),
        )
        for field, described in schema.get("properties", {}).items()
    ]
    if rows:
        table = _table("Fields", ("name", "type", "meaning"), rows)
    else:
        # What a stream consists of: a type for the data of each event.
        kinds = [one["properties"] for one in schema["oneOf"]]
        rows = [
            (
                _shape(kind["event"]),
                _shape(kind["data"]["contentSchema"]),
                _shape(kind["id"]) if "id" in kind else "none",
            )
            for kind in kinds
        ]
        table = _table("Fields", ("event", "data", "id"), rows)
    said = _text(schema.get("description", ""))
    return f"<section id='type-{escape(name)}'><h3>{escape(name)}</h3>{said}{table}</section>"


def _required(required: bool) -> str:  # noqa: FBT001 - the only argument
    return "<small> required</small>" if required else ""


def _shape(schema: Part) -> str:
    """Return what a schema allows, in a few words."""
    if (ref := schema.get("$ref")) is not None:
        shape = _link(ref.rpartition("/")[2])
    elif "anyOf" in schema:
        shape = " or ".join(dict.fromkeys(_shape(one) for one in schema["anyOf"]))
    elif "enum" in schema:
        shape = " or ".join(f"<code>{escape(str(value))}</code>" for value in schema["enum"])
    elif "const" in schema:
        shape = f"<code>{escape(str(schema['const']))}</code>"
    elif schema.get("type") == "array":
        shape = f"list of {_shape(schema['items'])}"
    elif isinstance(schema.get("additionalProperties"), dict):
        shape = f"object of {_shape(schema['additionalProperties'])}"
    else:
        shape = escape(schema.get("type", "anything"))
    limits = [
        f"{words} {schema[key]}"
        for key, words in (
            ("minimum", "from"),
            ("maximum", "to"),
            ("minLength", "characters from"),
            ("maxLength", "to"),
            ("minItems", "from"),
            ("maxItems", "to"),
            ("default", "default"),
        )
        if schema.get(key) is not None
    ]
    return f"{shape} <small>{escape(' '.join(limits))}</small>" if limits else shape


def _link(name: str) -> str:
    return f"<a href='#type-{escape(name)}'>{escape(name)}</a>"


def _table(title: str, names: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = "".join(f"<th scope='col'>{name}</th>" for name in names)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    caption = f"<caption>{title}</caption>"
    return (
        f"<div class='wide' tabindex='0' role='group' aria-label='{title}'><table>{caption}"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _text(text: str, element: str = "p") -> str:
    paragraphs = (one for one in text.split("\n\n") if one)
    return "".join(f"<{element}>{_inline(one)}</{element}>" for one in paragraphs)


def _inline(text: str) -> str:
    """Return a text as HTML; what stands between backticks is code."""
    return re.sub(r"`+([^`]+)`+", r"<code>\1</code>", escape(text))
