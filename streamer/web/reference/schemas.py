"""Describe types as JSON Schemas: msgspec makes these, and docstrings are their descriptions."""

from __future__ import annotations

import ast
import functools
import inspect
import sys
from collections.abc import Iterable
from typing import Any, Final

import msgspec

from streamer.model.events import KINDS
from streamer.web.operations.operation import component

__all__ = ["schema_name", "schemas"]

TEMPLATE: Final = component("{name}")["$ref"]
EVENTS: Final = frozenset(KINDS.values())


def schema_name(struct: type[msgspec.Struct]) -> str:
    """Return the name of a type in the document."""
    if struct in EVENTS:
        return f"{struct.__name__}Event"
    return struct.__name__.removeprefix("_")


def schemas(structs: Iterable[type[msgspec.Struct]]) -> dict[str, Any]:
    """Return the schemas of types, and of all types that they consist of, by their names."""
    names = {one.__name__: one for one in _with_parts(structs)}
    _, made = msgspec.json.schema_components(names.values(), ref_template=TEMPLATE)
    assert made.keys() == names.keys(), "two types have one name"
    renamed = {component(name)["$ref"]: schema_name(struct) for name, struct in names.items()}
    described = {}
    for name, schema in made.items():
        struct = names[name]
        schema["title"] = schema_name(struct)
        if struct.__doc__ and "description" in schema:
            schema["description"] = inspect.cleandoc(struct.__doc__)
        texts = _field_texts(struct)
        encoded = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)
        for field, wire_name in encoded:
            described_field = schema["properties"][wire_name]
            # With one, generators of clients take the field for one that is always there.
            described_field.pop("default", None)
            if field in texts:
                described_field["description"] = texts[field]
        described[schema_name(struct)] = _with_names(schema, renamed)
    return described


def _with_parts(structs: Iterable[type[msgspec.Struct]]) -> list[type[msgspec.Struct]]:
    """Return types and those that their fields consist of, each once."""
    found: dict[type[msgspec.Struct], None] = {}
    waiting = [*structs]
    while waiting:
        struct = waiting.pop(0)
        if struct not in found:
            found[struct] = None
            hints = [field.type for field in msgspec.structs.fields(struct)]
            waiting += _structs_in(hints)
    return [*found]


def _structs_in(hints: Iterable[Any]) -> list[type[msgspec.Struct]]:
    found: list[type[msgspec.Struct]] = []
    for hint in hints:
        if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
            found.append(hint)
        else:
            found += _structs_in(getattr(hint, "__args__", ()))
            for meta in getattr(hint, "__metadata__", ()):
                found += (meta.extra or {}).get("types", ())
    return found


def _with_names(value: Any, renamed: dict[str, str]) -> Any:
    """Return a schema in which references have the names of the document."""
    if isinstance(value, dict):
        if (ref := value.get("$ref")) in renamed:
            value = {**value, **component(renamed[ref])}
        return {key: _with_names(inner, renamed) for key, inner in value.items()}
    if isinstance(value, list):
        return [_with_names(inner, renamed) for inner in value]
    return value


def _field_texts(struct: type[msgspec.Struct]) -> dict[str, str]:
    """Return the docstrings of a type's fields, with those of its bases."""
    texts: dict[str, str] = {}
    for base in reversed(struct.__mro__):
        texts |= _texts_in(base.__module__).get(base.__name__, {})
    return texts


@functools.cache
def _texts_in(module: str) -> dict[str, dict[str, str]]:
    """Return the docstrings of the fields of all classes in a module of ours."""
    if not module.startswith("streamer."):
        return {}
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {
        node.name: {
            field.target.id: inspect.cleandoc(said.value.value)
            for field, said in zip(node.body, node.body[1:], strict=False)
            if isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(said, ast.Expr)
            and isinstance(said.value, ast.Constant)
            and isinstance(said.value.value, str)
        }
        for node in tree.body
        if isinstance(node, ast.ClassDef)
    }
