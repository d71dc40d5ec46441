"""What options are made of: frozen models that are strict about their keys, and kinds of values.

Every option of the program is declared once, in a `Part`. Nothing heavy is imported here.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    model_validator,
)

from .schedules import step_schedule


def _growing(points: float | list[tuple[int, float]]) -> float | list[tuple[int, float]]:
    step_schedule(points, 0)
    return points


def _encodable(text: str) -> str:
    """Bytes of a command line that are no text reach Python as lone surrogates."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("the text holds bytes that are not valid UTF-8") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("the text is empty; leave the setting out, or say something")
    return text


Schedule = Annotated[float | list[tuple[int, float]], AfterValidator(_growing)]
"""A number, or a list of [step, value] pairs joined by straight lines."""
Text = Annotated[str, AfterValidator(_encodable)]
FullText = Annotated[str, AfterValidator(_encodable), AfterValidator(_not_blank)]
"""A text that says something."""
Texts = Annotated[list[str], BeforeValidator(lambda v: [v] if isinstance(v, str) else v)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Decay = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]
Count = Annotated[int, Field(ge=1)]
Range = tuple[float, float]
Color = tuple[Fraction, Fraction, Fraction]


class Part(BaseModel):
    """A part of the configuration: frozen, and strict about its keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    shorthand: ClassVar[str | None] = None
    """The setting that a plain text in place of the part stands for."""

    @model_validator(mode="before")
    @classmethod
    def _no_truth_values(cls, values: Any) -> Any:
        """Few settings are yes or no; for the rest pydantic would take YAML's `on` for 1."""
        for key, value in values.items() if isinstance(values, dict) else ():
            kind = cls.model_fields[key].annotation if key in cls.model_fields else None
            if isinstance(value, bool) and bool not in (kind, *get_args(kind)):
                raise ValueError(f"{key}: expected a number or a text, got {value}")
        return values


def values_of(points: Schedule) -> list[float]:
    """The values that a schedule goes through."""
    return [points] if isinstance(points, int | float) else [value for _, value in points]


def steps_of(*schedules: Schedule) -> Iterator[int]:
    """The steps at which schedules bend, and step 0."""
    yield 0
    for points in schedules:
        if isinstance(points, list):
            yield from (step for step, _ in points)
