"""A mesh of the user's that a run begins with."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from ..options import Part, Text
from .export import Axis

Front = Literal["+x", "-x", "+y", "-y", "+z", "-z"]


class MeshConfig(Part):
    """Which mesh, and how it stands in its file."""

    file: Text
    """Its path."""
    digest: Annotated[str, Field(pattern="^[0-9a-f]{32}$")]
    """What the file's content hashes to."""
    up: Axis | None = None
    """The axis that points up in it; null is the format's."""
    front: Front | None = None
    """The axis its front looks along; null is +z where y is up, and -y where z is."""
    keep: bool = False
    """Whether geometry and texture coordinates stay as they are and only the texture learns."""
