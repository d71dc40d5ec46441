"""three.js with its glTF loader, out of trimesh, which brings both for its own viewer.

Nothing of it lies in this repository: it is read from the installed package when a page is made.
"""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

from ..errors import UserError

_BEGIN, _END = "<script>", "var camera,controls,scene"
"""Where the library begins in trimesh's page, and where trimesh's own lines follow it."""


@cache
def three_js() -> str:
    """The text of three.js (MIT licence, its notice within) and `THREE.GLTFLoader`.

    Raises UserError if the installed trimesh has it in another form.
    """
    import trimesh

    place = Path(trimesh.__file__).parent / "resources" / "templates" / "viewer.zip"
    try:
        with zipfile.ZipFile(place) as archive:
            page = archive.read("viewer.html.template").decode("utf-8")
    except (OSError, KeyError, zipfile.BadZipFile, UnicodeDecodeError):
        page = ""
    begin, end = page.find(_BEGIN), page.find(_END)
    library = page[begin + len(_BEGIN) : end] if 0 <= begin < end else ""
    if "GLTFLoader" not in library or "</script" in library.lower():
        raise UserError(
            f"this trimesh ({trimesh.__version__}) brings no viewer that can be used; install "
            "another one: pip install 'trimesh>=4.4,<6'"
        )
    return library
