"""From files, `--set` pairs and options to a `RunConfig`, and what is said of mistakes on the way.

A file of `configs/` holds only what differs from the defaults; `--set key=value` differs once more.
Unknown keys and values of the wrong type are errors.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import ValidationError

from ..errors import UserError, nearest, one_line, shown
from ..files import read_text
from ..losses import LOSSES
from ..options import Part
from .models import RunConfig

T = TypeVar("T", bound=Part)
_PLAIN = (str, bool, int, float)

DEFAULT_CONFIG = "toybox"
Beneath = str | tuple[str, str]
"""A shipped configuration, or the one whose coarse stage is meant and the one whose fine stage."""
LARGEST, DEEPEST = 2**20, 16  # bytes of a configuration file, and files that build on one another
# Beside the packages, installed or not; importlib.resources fails on an editable install of a
# folder without __init__.py.
SHIPPED = Path(__file__).resolve().parents[2] / "configs"


def build_config(
    prompt: str,
    file: str | None = None,
    overrides: Sequence[str] = (),
    base: Mapping[str, Any] | None = None,
    beneath: Beneath = DEFAULT_CONFIG,
    image: Mapping[str, Any] | None = None,
    **fixed: Any,
) -> RunConfig:
    """The configuration of a new run: defaults, then a file, then `--set` pairs, then options.

    file: a path, or the name of one of the shipped configurations; None is what lies beneath.
    beneath: what a file of the user's differs from, unless it says so itself with `base`, which
    null makes the plain defaults.
    overrides: `key=value` texts with dotted keys; values are read as YAML.
    base: settings to start from in place of a file.
    image: settings of the picture, over all others; None means not given.
    fixed: top-level settings such as `seed`; None means not given.
    Raises UserError for an empty prompt, a file that cannot be read, an unknown key or a bad value.
    """
    if base is None:
        base = _of(beneath) if file is None else read_config_file(file, beneath=beneath)
    tree = _expanded(base, RunConfig)
    for pair in overrides:
        set_value(tree, pair)
    if any(pair.partition("=")[0].strip() == "prompt" for pair in overrides):
        raise UserError("--set prompt: the prompt is the command's own argument; leave --set out")
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


def _of(beneath: Beneath) -> dict[str, Any]:
    """Plain data of what lies beneath; of two all but the fine stage is the first's."""
    if isinstance(beneath, str):
        return read_config_file(beneath)
    first, second = (read_config_file(name) for name in beneath)
    return {**{k: v for k, v in first.items() if k != "fine"}, "fine": second.get("fine", {})}


def read_config_file(
    name: str, above: tuple[str, ...] = (), beneath: Beneath | None = None
) -> dict[str, Any]:
    """Plain data of a configuration file, by path or by the name of a shipped one.

    A file whose `base` names another one holds what differs from that one. above: the files that
    build on this one. beneath: the base of a file of the user's that names none. Raises UserError
    for a file that can't be read, or that builds on itself.
    """
    try:
        path = _config_path(name)
        tree = _load_yaml(path.name, read_text(path, LARGEST))
    except UnicodeDecodeError:
        raise UserError(
            f"configuration {one_line(name, 120)} is not a text file; give a YAML file"
        ) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(
            f"configuration {one_line(name, 120)} can't be read ({reason}); give a YAML file"
        ) from None
    if beneath is not None and "base" not in tree and path.parent != SHIPPED:
        return _merged(_expanded(_of(beneath), RunConfig), _expanded(tree, RunConfig))
    base = tree.pop("base", None)
    if base is None:
        return tree
    if not isinstance(base, str):
        raise UserError(
            f"configuration {one_line(name, 120)}: base: expected the name of a file, got "
            f"{shown(base)}"
        )
    here = str(path.resolve())  # one file has many spellings
    beside = str(path.parent / base)
    base = beside if _is_there(beside) else base
    if here in above or str(_config_path(base).resolve()) in (*above, here):
        raise UserError(f"configuration {one_line(name, 120)} builds on itself; give another base")
    if len(above) >= DEEPEST:
        raise UserError(
            f"configuration {one_line(name, 120)}: more than {DEEPEST} files build on it"
        )
    below = read_config_file(base, (*above, here))
    return _merged(_expanded(below, RunConfig), _expanded(tree, RunConfig))


def _config_path(name: str) -> Path:
    """The file that a path or the name of a shipped configuration stands for."""
    path = Path(name)
    shipped = SHIPPED / f"{name.removesuffix('.yaml')}.yaml"
    try:
        if name and path.exists() and not (path.is_dir() and shipped.is_file()):
            return path
    except OSError as error:
        raise UserError(
            f"configuration {one_line(name, 120)} can't be read ({error.strerror}); give a YAML "
            "file"
        ) from None
    if re.fullmatch(r"[\w.-]+", name) and shipped.is_file():
        return shipped
    known = ", ".join(shipped_configs())
    raise UserError(
        f"no configuration file '{one_line(name, 120)}'; give a path to a YAML file or one of: "
        f"{known}"
    )


def _is_there(place: str) -> bool:
    try:
        return Path(place).is_file()
    except (OSError, ValueError):  # a name too long, or with a zero in it
        return False


def may_differ(file: str | None) -> bool:
    """Whether settings may build on what suits the prior: no file, or one without `base`."""
    if file is None:
        return True
    path = _config_path(file)
    if path.parent == SHIPPED:
        return False
    return "base" not in _load_yaml(path.name, read_text(path, LARGEST))


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
        tree = safe_yaml(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" (line {mark.line + 1})" if mark is not None else ""
        raise UserError(f"configuration {name} is not valid YAML{where}; mend it") from None
    except ValueError as error:
        raise UserError(f"configuration {name}: {error}; write it plainly") from None
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
        raise UserError(f"--set takes key=value, got '{shown(pair)}'; for example --set {example}")
    value = _set_text(key, text, root, example)
    part = _part_at(key, root)
    if part is not None and part.shorthand is not None and isinstance(value, _PLAIN):
        key, value = f"{key}.{part.shorthand}", text.strip().strip("\"'")
    *parents, leaf = key.split(".")
    node = tree
    for parent in parents:
        child = node.get(parent)
        node[parent] = node = dict(child) if isinstance(child, dict) else {}
    node[leaf] = value


def _set_text(key: str, text: str, root: type[Part], example: str) -> Any:
    """The value that the text of a pair means: as it is for settings that are texts, else YAML.

    "null" is nothing where a text may be left out. Quotes around a whole text are YAML's.
    """
    plain = text.strip()
    kinds = _value_kinds(key, root)
    if str in kinds:
        quoted = len(plain) > 1 and plain[0] == plain[-1] and plain[0] in "\"'"
        if not quoted:
            return None if plain in ("null", "~") and type(None) in kinds else plain
    if not plain:
        raise UserError(f"--set {shown(key)}= has no value; give one, for example --set {example}")
    if plain.startswith("#"):
        raise UserError(f"--set {shown(key)}: {shown(plain)} is a comment, not a value")
    try:
        # A sign of a comment within a value is the value's; YAML would cut it off there.
        return safe_yaml(text) if " #" not in text or plain[0] in "\"'" else text
    except (yaml.YAMLError, ValueError):
        return text


def _value_kinds(path: str, root: type[Part]) -> set[Any]:
    """The plain kinds of values that the setting at a dotted key takes."""
    *parents, leaf = path.split(".")
    part = _part_at(".".join(parents), root) if parents else root
    if part is None or leaf not in part.model_fields:
        return set()
    annotation = part.model_fields[leaf].annotation
    shorthand = _part_of(part, leaf)
    if shorthand is not None and shorthand.shorthand is not None:
        return set()  # a mapping, or the text that stands for it
    return _plain_kinds(annotation)


def _plain_kinds(annotation: Any) -> set[Any]:
    """`str | None` is {str, NoneType}; lists and mappings of texts aren't texts."""
    if annotation in (str, None, type(None)):
        return {type(None) if annotation is None else annotation}
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(_plain_kinds(a) for a in get_args(annotation)))
    if get_origin(annotation) is Annotated:
        return _plain_kinds(get_args(annotation)[0])
    return set()


def safe_yaml(text: str) -> Any:
    """Plain data of YAML; what would take the machine down is refused.

    Raises ValueError for data nested deeper than 50 levels or that grows by its aliases, and
    yaml.YAMLError for what is no YAML.
    """
    depth = 0
    for count, event in enumerate(yaml.parse(text, Loader=yaml.SafeLoader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("aliases (*name) are not taken")
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > 50 or count > 200_000:
            raise ValueError("it is nested too deeply" if depth > 50 else "it is too large")
    return yaml.safe_load(text)


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
    *outer, last = first["loc"] or ("",)
    # What is no setting at all is a key, however it is spelt.
    inner = first["type"] == "extra_forbidden" or not _is_union_branch(last)
    named = [*(p for p in outer if not _is_union_branch(p)), *([last] if inner else [])]
    key = ".".join(shown(part) for part in named)
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
    return f"setting '{key}': {message}, got {shown(repr(first.get('input')))}"


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
