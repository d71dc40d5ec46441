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


LONGEST = 300
"""Characters of a line about a mistake, at most."""


def one_line(message: str, most: int = LONGEST) -> str:
    """A message fit for a terminal: one line, nothing unprintable, at most `most` characters.

    What is too long loses its middle: its beginning says what was wrong, its end what to do.
    """
    plain = "".join(c if c.isprintable() else _escaped(c) for c in " ".join(message.split()))
    if len(plain) <= most:
        return plain
    head = (most - 5) * 3 // 5
    return f"{plain[:head]} ... {plain[len(plain) - (most - 5 - head) :]}"


def shown(text: object, most: int = 60) -> str:
    """What a user gave, as a message repeats it: a long text by its beginning and its length."""
    whole = str(text)
    start = one_line(whole[:most], 10 * most)
    return start if len(whole) <= most else f"{start}... ({len(whole)} characters)"


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def nearest(word: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known words most like `word`, best first; for 'did you mean' lines."""
    return difflib.get_close_matches(word, list(known), n=count, cutoff=0.5)
