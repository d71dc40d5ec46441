"""The one exception that is the user's to mend.

Everything a user can get wrong raises `UserError` with one line that says what was wrong,
what was expected and what to do. The command line prints that line and exits with code 2;
any other exception is a fault of ours and keeps its traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """A mistake in what the user gave, told in one line without a traceback."""


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known words most like `word`, best first; for 'did you mean' lines."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
