"""The texts that a prompt becomes, view by view; no torch is imported here."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ..config.prompts import VIEWS, PromptConfig, View
from ..errors import UserError


def drop_words(prompt: str, words: Sequence[str]) -> str:
    """The prompt without the given whole words, in any case, and without the holes they leave."""
    for word in words:
        prompt = re.sub(rf"(?<!\w){re.escape(word)}(?!\w)", " ", prompt, flags=re.IGNORECASE)
    prompt = re.sub(r"\s+", " ", prompt)
    prompt = re.sub(r"\s+,", ",", prompt)
    return re.sub(r",(\s*,)+", ",", prompt).strip(" ,")


def view_texts(prompt: str, config: PromptConfig, told: bool = False) -> tuple[str, ...]:
    """The four texts of a prompt in the order of VIEWS.

    told: whether the prior is told the camera itself. A view with a prompt of its own takes that.
    Otherwise the prompt, without conflicting words if debiasing is on (a plain list of words; Hong
    2023 lets a language model find them), and the view's phrase. Raises UserError for an empty
    prompt, or one of which debiasing leaves nothing.
    """
    if not prompt.strip():
        raise UserError('the prompt is empty; say what to make, for example "a red mushroom"')
    texts = []
    for view in VIEWS:
        if view in config.prompts:
            text = config.prompts[view].strip()
            if not text:
                raise UserError(f"the prompt of the {view} view is empty; fill it or leave it out")
        else:
            text = _view_text(prompt.strip(), view, config, told)
        texts.append(text + config.suffix)
    return tuple(texts)


def all_texts(
    prompt: str, config: PromptConfig, told: bool = False, pictured: bool = False
) -> tuple[str, ...]:
    """Every text a prompt needs: the four of `view_texts`, the empty one, the negative if any.

    Last, where the view's words are guided on their own, the prompt without them.
    pictured: whether a picture may stand in for the prompt; without one its four texts are empty.
    """
    negative = config.negative.strip()
    silent = pictured and not prompt.strip()
    views = ("",) * len(VIEWS) if silent else view_texts(prompt, config, told)
    plain = ["" if silent else prompt.strip() + config.suffix] if config.view_guidance else []
    return (*views, "", *([negative] if negative else []), *plain)


def _view_text(prompt: str, view: View, config: PromptConfig, told: bool) -> str:
    if not config.names_views(told):
        return prompt
    if config.debias:
        kept = drop_words(prompt, config.conflicts(view))
        if not kept:
            raise UserError(
                f"debiasing leaves nothing of the prompt '{prompt}' for the {view} view; "
                "turn it off or reword the prompt"
            )
        prompt = kept
    return f"{prompt}, {config.phrase(view)}"
