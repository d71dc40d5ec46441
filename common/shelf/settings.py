"""Every setting as a row: key, type, default, range, one line, where it is declared.

The rows are read from the models themselves, and their lines from the texts below the fields; a
field without one is told by its model's.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import types
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ..config.differences import flat, told_value
from ..config.models import RunConfig
from ..config.reading import DEFAULT_CONFIG, build_config
from ..losses import LOSSES
from ..options import Part


@dataclass(frozen=True)
class Setting:
    """default: of the program; own: of the default configuration, where that differs, or ""."""

    key: str
    type: str
    default: str
    own: str
    range: str
    line: str
    source: str

    def matches(self, words: str) -> bool:
        """Whether every word occurs in the key or the line."""
        text = f"{self.key} {self.line} {self.type}".lower()
        return all(word in text for word in words.lower().split())


@cache
def all_settings() -> tuple[Setting, ...]:
    """The settings of a run, in the order of their declaration; losses by their own names."""
    own = flat(build_config("x", DEFAULT_CONFIG).model_dump(mode="json"))
    plain = flat(RunConfig(prompt="x").model_dump(mode="json"))
    return tuple(_rows(RunConfig, "", RunConfig(prompt="x"), plain, own))


def _rows(
    model: type[Part], above: str, default: Any, plain: dict[str, Any], own: dict[str, Any]
) -> Iterator[Setting]:
    lines = field_lines(model)
    for name, field in model.model_fields.items():
        key = f"{above}{name}"
        value = getattr(default, name, field.default)
        kinds = part_kinds(field.annotation)
        if len(kinds) > 1:  # the losses: each with the settings of its own
            for kind in kinds:
                loss = str(kind.model_fields["loss"].default)
                yield from _rows(kind, f"{key}({loss}).", kind(), {}, {})
        elif kinds:
            yield from _rows(kinds[0], f"{key}.", value, plain, own)
        else:
            told = "required" if field.is_required() else told_value(plain.get(key, value))
            here = told_value(own[key]) if key in own and own[key] != plain.get(key) else ""
            yield Setting(
                key=key,
                type=told_type(field.annotation),
                default=told,
                own="" if field.is_required() else here,
                range=told_range(field),
                line=lines.get(name) or _first_line(model),
                source=f"{_file_of(model)}: {model.__name__}",
            )


def part_kinds(annotation: Any) -> list[type[Part]]:
    """The models that an annotation may stand for."""
    if isinstance(annotation, type) and issubclass(annotation, Part):
        return [annotation]
    return [kind for each in get_args(annotation) for kind in part_kinds(each)]


def told_type(annotation: Any) -> str:
    """An annotation for people: `number`, `text`, `one of a, b`."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return told_type(parts[0])
    if origin is Literal:
        return "one of " + ", ".join(str(part) for part in parts)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(told_type(part) for part in parts))
    if origin is list and get_args(_bare(parts[0])) == (int, float):
        return "list of [step, value]"
    if origin is tuple and parts[-1] is Ellipsis:
        return f"list of {told_type(parts[0])}"
    if origin is tuple:
        return f"{len(parts)} of {told_type(parts[0])}"
    if origin is list:
        return f"list of {told_type(parts[0])}"
    if origin is dict:
        return f"{told_type(parts[1])} by {told_type(parts[0])}"
    names = {float: "number", int: "whole number", str: "text", bool: "true or false"}
    return names.get(annotation, "null" if annotation is type(None) else str(annotation))


def _bare(annotation: Any) -> Any:
    return get_args(annotation)[0] if get_origin(annotation) is Annotated else annotation


def told_range(field: FieldInfo) -> str:
    """The bounds of a number, such as `>= 1` or `0 to 1`."""
    found: dict[str, float] = {}
    for item in _metadata(field):
        for name in ("ge", "gt", "le", "lt"):
            if (value := getattr(item, name, None)) is not None:
                found[name] = value
    if "ge" in found and "le" in found:
        return f"{_bound(found['ge'])} to {_bound(found['le'])}"
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return ", ".join(f"{signs[name]} {_bound(value)}" for name, value in found.items())


def _bound(value: float) -> str:
    power = value.bit_length() - 1 if isinstance(value, int) else 0
    if power > 20 and value == 1 << power:
        return f"2^{power}"
    return str(value) if isinstance(value, int) else f"{value:g}"


def _metadata(field: FieldInfo) -> list[Any]:
    items = list(field.metadata)
    todo = [field.annotation]
    while todo:
        annotation = todo.pop()
        if get_origin(annotation) is Annotated:
            inner, *more = get_args(annotation)
            items += more
            todo.append(inner)
        elif get_origin(annotation) in (Union, types.UnionType, tuple):
            todo += get_args(annotation)
    # A `Field(...)` within an annotation holds its bounds one level deeper.
    return [*items, *(deep for item in items for deep in getattr(item, "metadata", ()))]


@cache
def field_lines(model: type[Part]) -> dict[str, str]:
    """The texts below a model's fields, on one line each, those of its bases among them."""
    found: dict[str, str] = {}
    for kind in reversed(model.__mro__):
        if not (isinstance(kind, type) and issubclass(kind, Part)) or kind is Part:
            continue
        tree = ast.parse(inspect.getsource(kind).lstrip())
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for node, below in itertools.pairwise(body):
            if (
                isinstance(node, ast.AnnAssign)
                and isinstance(node.target, ast.Name)
                and isinstance(below, ast.Expr)
                and isinstance(below.value, ast.Constant)
                and isinstance(below.value.value, str)
            ):
                found[node.target.id] = " ".join(below.value.value.split())
    return found


def _first_line(model: type[Part]) -> str:
    return (inspect.getdoc(model) or "").split("\n\n")[0].replace("\n", " ")


def _file_of(model: type[Part]) -> str:
    return "/".join(model.__module__.split(".")[1:]) + ".py"


def markdown() -> str:
    """The page docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Made by `maquette settings --markdown`; a test keeps it so. *Default* is the program's",
        f"own, *{DEFAULT_CONFIG}* what the default configuration puts in its place. Each of the",
        f"{len(LOSSES)} losses has settings of its own: `coarse.distillation(sds).t_max` is",
        "`--set coarse.distillation.t_max=0.9` with `--set coarse.distillation.loss=sds`.",
        "",
        f"| setting | type | default | {DEFAULT_CONFIG} | range | what it is | declared in |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in all_settings():
        cells = [f"`{row.key}`", row.type, _code(row.default), _code(row.own), row.range]
        cells += [row.line, row.source]
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _code(text: str) -> str:
    return f"`{text}`" if text else ""
