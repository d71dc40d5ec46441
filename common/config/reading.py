"""From files, `--set` pairs and options to a `RunConfig`, and what is said of mistakes on the way.

A file of `configs/` holds only what differs from the defaults; `--set key=value` differs once more.
Unknown keys and values of the wrong type are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import ValidationError

from ..errors import UserError, nearest
from ..losses import LOSSES
from ..options import Part
from .models import RunConfig

T = TypeVar("T", bound=Part)

DEFAULT_CONFIG = "toybox"
# Beside the packages, installed or not; importlib.resources fails on an editable install of a
# folder without __init__.py.
SHIPPED = Path(__file__).resolve().parents[2] / "configs"


def build_config(
    prompt: str,
    file: str | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    image: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> RunConfig:
    """The configuration of a new run: defaults, then a file, then `--set` pairs, then options.

    file: a path, or the name of one of the shipped configurations; None is the default one.
    overrides: `key=value` texts with dotted keys; values are read as YAML.
    base: settings to start from in place of a file.
    image: settings of the picture, over all others; None means not given.
    fixed: top-level settings such as `seed`; None means not given.
    Raises UserError for an empty prompt, a file that cannot be read, an unknown key or a bad value.
    """
    tree = _expanded(base if base is not None else read_config_file(file), RunConfig)
    for pair in overrides:
        set_value(tree, pair)
    tree.update({k: v for k, v in fixed.items() if v is not None})
    if given := {k: v for k, v in (image or {}).items() if v is not None}:
        tree["image"] = {**(tree.get("image") or {}), **given}
    if not prompt.strip() and not tree.get("image"):
        raise UserError(
            'the prompt is empty; say what to make, for example: maquette run "a red mushroom", or '
            "give a picture of it: maquette run --image photo.png"
        )
    tree["prompt"] = prompt.strip()
    return validate(tree)


def validate(tree: Mapping[str, Any]) -> RunConfig:
    """A `RunConfig` from plain data; UserError with one line for the first thing wrong in it."""
    return validated(RunConfig, tree)


def validated(root: type[T], tree: Mapping[str, Any], name: str = "the top level") -> T:
    """Settings of any kind from plain data; UserError with one line for the first thing wrong.

    name: what to call the whole of them.
    """
    # Merged first: a stage's own defaults (say, the fine stage's fovy) hold beside what is given.
    try:
        return root.model_validate(_merged(_own_defaults(root), tree))
    except ValidationError as error:
        raise UserError(_explain(error, root, name)) from None


def changed(config: RunConfig, part: str, values: Mapping[str, Any]) -> RunConfig:
    """The same configuration with some settings of one part replaced; None means unchanged."""
    tree = config.model_dump(mode="json")
    tree[part] |= {k: v for k, v in values.items() if v is not None}
    return validate(tree)


def shipped_configs() -> list[str]:
    """Names of the configurations that come with the program."""
    return sorted(path.stem for path in SHIPPED.glob("*.yaml"))


def read_config_file(name: str | None, above: tuple[str, ...] = ()) -> dict[str, Any]:
    """Plain data of a configuration file, by path or by the name of a shipped one.

    A file whose `base` names another one holds what differs from that one. above: the files that
    build on this one. Raises UserError for a file that can't be read, or that builds on itself.
    """
    name = name or DEFAULT_CONFIG
    path = Path(name)
    try:
        if path.is_file():
            tree = _load_yaml(path.name, path.read_text("utf-8"))
        elif (shipped := SHIPPED / f"{name.removesuffix('.yaml')}.yaml").is_file():
            tree = _load_yaml(shipped.name, shipped.read_text("utf-8"))
        else:
            known = ", ".join(shipped_configs())
            raise UserError(
                f"no configuration file '{name}'; give a path to a YAML file or one of: {known}"
            )
    except UnicodeDecodeError:
        raise UserError(f"configuration {name} is not a text file; give a YAML file") from None
    except OSError as error:
        raise UserError(f"configuration {name} can't be read ({error.strerror})") from None
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(f"configuration {name}: base: expected the name of a file, got {base!r}")
    beside = str(path.parent / base)
    base = beside if Path(beside).is_file() else base
    if base in (*above, name):
        raise UserError(f"configuration {name} builds on itself; give another base")
    below = read_config_file(base, (*above, name))
    return _merged(_expanded(below, RunConfig), _expanded(tree, RunConfig))


def to_yaml(config: RunConfig) -> str:
    """The complete configuration as YAML."""
    tree = config.model_dump(mode="json")
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True)


def _own_defaults(model: type[Part]) -> dict[str, Any]:
    """What parts hold by default that differs from their own models' defaults."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        if isinstance(field.default, Part):
            given = field.default.model_dump(mode="json", exclude_unset=True)
            if own := _merged(_own_defaults(type(field.default)), given):
                found[name] = own
    return found


class _Dumper(yaml.SafeDumper):
    """Quotes any text with a strange sign in it: plain, U+0085 and its like don't come back."""

    def represent_str(self, data: str) -> yaml.ScalarNode:
        style = None if data.isprintable() else '"'
        return self.represent_scalar("tag:yaml.org,2002:str", data, style)


_Dumper.add_representer(str, _Dumper.represent_str)


def _merged(base: Any, change: Any) -> Any:
    """`change` over `base`, mappings key by key, anything else as a whole."""
    if not (isinstance(base, Mapping) and isinstance(change, Mapping)):
        return change
    return {**base, **{k: _merged(base[k], v) if k in base else v for k, v in change.items()}}


def _load_yaml(name: str, text: str) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(f"configuration {name} is not valid YAML{where}; mend it") from None
    if tree is None:
        return {}
    if not isinstance(tree, dict):
        raise UserError(f"configuration {name} must be a mapping of settings at its top level")
    return tree


def set_value(
    tree: dict[str, Any],
    pair: str,
    root: type[Part] = RunConfig,
    example: str = "coarse.steps=80",
) -> None:
    """Put a `key=value` text into plain data; keys are dotted, values are read as YAML.

    root: the settings that the data is of. Raises UserError for a text that is no pair.
    """
    key, sign, text = pair.partition("=")
    key = key.strip()
    if not sign or not key:
        raise UserError(f"--set takes key=value, got '{pair}'; for example --set {example}")
    try:
        value = yaml.safe_load(text) if text.strip() else ""
    except yaml.YAMLError:
        value = text
    part = _part_at(key, root)
    if part is not None and part.shorthand is not None and isinstance(value, str):
        key = f"{key}.{part.shorthand}"
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        node[parent] = node = dict(child) if isinstance(child, dict) else {}
    node[leaf] = value


def _expanded(tree: Mapping[str, Any], model: type[Part]) -> dict[str, Any]:
    """The same settings with every shorthand written out: `prior: sd15` is {name: sd15}."""
    full: dict[str, Any] = {}
    for key, value in tree.items():
        part = _part_of(model, key)
        if part is not None and part.shorthand is not None and isinstance(value, str):
            value = {part.shorthand: value}
        full[key] = _expanded(value, part) if part and isinstance(value, dict) else value
    return full


def _part_at(path: str, root: type[Part]) -> type[Part] | None:
    """The part of the settings that a dotted key names, if it names one."""
    part: type[Part] | None = root
    for key in path.split("."):
        part = _part_of(part, key) if part is not None else None
    return part


def _part_of(model: type[Part], key: str) -> type[Part] | None:
    """The model of a part's part; of those that stand for a choice, the first one."""
    kinds = _kinds(model.model_fields[key].annotation) if key in model.model_fields else []
    return kinds[0] if kinds else None


def _kinds(annotation: Any) -> list[type[Part]]:
    """The models that a field's annotation may stand for."""
    if isinstance(annotation, type):
        return [annotation] if issubclass(annotation, Part) else []
    return [kind for part in get_args(annotation) for kind in _kinds(part)]


def _explain(error: ValidationError, root: type[Part], name: str) -> str:
    first = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"] if not _is_union_branch(part))
    if first["type"] == "extra_forbidden":
        parent, _, leaf = key.rpartition(".")
        siblings = sorted(_fields_at(first["loc"][:-1], root))
        losses = [name for name, kind in LOSSES.items() if leaf in kind.model_fields]
        if losses and first["loc"][-2:-1] and first["loc"][-2] in LOSSES:
            return f"unknown setting '{key}': {leaf} is an option of {', '.join(losses)} alone"
        hints = nearest(leaf, siblings) or _elsewhere(leaf, root)
        hint = f"did you mean {' or '.join(hints)}? " if hints else ""
        known = ", ".join(siblings)
        return f"unknown setting '{key}'; {hint}{parent or name} has: {known}"
    message = first["msg"].removeprefix("Value error, ")
    message = message[:1].lower() + message[1:]
    if first["type"] == "union_tag_invalid":
        given = first.get("ctx", {}).get("tag")
        known = ", ".join(LOSSES)
        return f"setting '{key}.loss': expected one of {known}, got {given!r}"
    if first["type"] == "value_error":
        return f"setting '{key}': {message}" if key else f"configuration: {message}"
    return f"setting '{key}': {message}, got {first.get('input')!r}"


def _is_union_branch(part: int | str) -> bool:
    """pydantic names the branch of a union in the location; a user knows only the keys."""
    return (isinstance(part, str) and ("[" in part or part in {"float", "int", "str", "list"})) or (
        part in LOSSES
    )


def _fields_at(location: Sequence[int | str], root: type[Part]) -> Mapping[str, Any]:
    """The settings of the part at a location as pydantic tells it."""
    model: Any = root
    for part in location:
        if part in LOSSES:
            model = LOSSES[str(part)]
        else:
            kinds = _kinds(model.model_fields[part].annotation) if model is not None else []
            model = kinds[0] if kinds else None
    return {} if model is None else model.model_fields


def _elsewhere(leaf: str, root: type[Part]) -> list[str]:
    """Up to three settings in other places whose last word is most like `leaf`."""
    keys = list(dict.fromkeys(_all_keys(root)))
    words = nearest(leaf, {key.rpartition(".")[2] for key in keys}, count=1)
    return [key for key in keys if key.rpartition(".")[2] in words][:3]


def _all_keys(model: type[Part], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        yield path + name
        for kind in _kinds(field.annotation):
            yield from (key for key in _all_keys(kind, f"{path}{name}."))
