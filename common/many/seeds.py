"""The same prompt from several seeds, one after the other, and which of them came out best."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..begin import Choices, plan
from ..config.judges import ClipConfig
from ..errors import UserError
from ..files import write_whole
from ..guidance.choose import check_clip
from ..runs.folder import open_run, slug
from ..runs.progress import result, say
from ..runs.watching import watching
from ..shelf.summary import poster_of
from .jobs import Job
from .report import contact_png
from .work import ready, work

RANKING, CONTACT = "ranking.json", "contact.png"


@dataclass(frozen=True)
class Ranked:
    """One seed's run. preference: of its prior, see `preference`; clip: of a CLIP model, if any."""

    job: Job
    seed: int
    preference: float | None
    clip: float | None = None

    @property
    def key(self) -> tuple[float, float]:
        """Larger is better: the prior's preference, then CLIP's."""
        least = float("-inf")
        return (
            least if self.preference is None else self.preference,
            least if self.clip is None else self.clip,
        )


def seed_jobs(prompt: str, choices: Choices, count: int, root: Path | None = None) -> list[Job]:
    """A job a seed, from the one given on, in folders of their own below one.

    The folder is `--out`, or `runs/<slug>-seeds`. Raises UserError for less than two seeds, and for
    whatever is wrong with the rest of the input.
    """
    if count < 2:
        raise UserError(f"--seeds: expected 2 or more, got {count}; one seed is --seed N")
    config = plan(prompt, choices)
    first = config.seed
    place = root or Path(choices.out or Path("runs") / f"{slug(config.title)}-seeds")
    jobs = []
    for seed in range(first, first + count):
        folder = place / f"seed-{seed}"
        jobs.append(Job(prompt, replace(choices, seed=seed, out=str(folder)), folder))
    return jobs


def run_seeds(prompt: str, choices: Choices, count: int, clip: str | None = None) -> None:
    """Make the runs, rank them, and print the best one's folder and the contact sheet's path."""
    import torch

    jobs = seed_jobs(prompt, choices, count)
    if clip is not None:
        check_clip(ClipConfig(model=clip))
    ready(torch.get_num_threads())
    began = time.monotonic()
    for number, job in enumerate(jobs, start=1):
        say(f"seed {job.choices.seed}, {number} of {count}")
        outcome = work(job, watching())
        if outcome.error is not None:
            raise UserError(
                f"seed {job.choices.seed}: {outcome.error}; go on with the same command"
            )
    ranked = rank(jobs, clip)
    for path in write_ranking(jobs[0].folder.parent, ranked, began):
        result(path)
    result(ranked[0].job.folder)


def rank(jobs: Sequence[Job], clip: str | None = None) -> list[Ranked]:
    """The finished runs of some jobs, the best first."""
    from .preference import clip_similarity, preference

    found = []
    for job in jobs:
        run = open_run(str(job.folder))
        similarity = None if clip is None else clip_similarity(run, clip)
        found.append(Ranked(job, run.config.seed, preference(run), similarity))
    return sorted(found, key=lambda each: each.key, reverse=True)


def write_ranking(root: Path, ranked: Sequence[Ranked], began: float) -> list[Path]:
    """Write ranking.json and the contact sheet, best first; the sheet's path."""
    rows = [
        {
            "folder": str(each.job.folder),
            "seed": each.seed,
            "preference": each.preference,
            "clip": each.clip,
        }
        for each in ranked
    ]
    data = {"seconds": round(time.monotonic() - began, 1), "ranking": rows}
    write_whole(root / RANKING, json.dumps(data, indent=2) + "\n")
    labels = [f"{place}. seed {each.seed}\n{told(each)}" for place, each in enumerate(ranked, 1)]
    posters = [poster_of(each.job.folder) for each in ranked]
    write_whole(root / CONTACT, contact_png(posters, labels))
    return [root / CONTACT]


def told(each: Ranked) -> str:
    """`preference 0.42, CLIP 0.31`."""
    words = [] if each.preference is None else [f"preference {each.preference:.3f}"]
    words += [] if each.clip is None else [f"CLIP {each.clip:.3f}"]
    return ", ".join(words) or "nobody to rank by"
