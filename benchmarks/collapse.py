"""How many seeds of the default run collapse, and how many of them the rules and retries save.

    python benchmarks/collapse.py [--seeds 50] [--steps 50] [--prompt "a red mushroom"]

Takes the first steps of the default run's coarse stage for each seed, with the rules of
`runs.failure` told and not acted on ("before"): a seed has collapsed where a rule told so, or where
the hand-off finds no surface. Each that has is run once more as `--on-failure retry` answers
("after"); a seed of which no rule told anything goes the same way with the rules and without them.
Whether a scene collapses is decided early, while it condenses out of fog; the rules look from half
of the stage on and want 25 steps, so 50 steps are the fewest. The hand-off is a small one.

Each seed's answer is kept in `runs/collapse/`, so a second call goes on where the first one
stopped. Writes its section of RESULTS.md, of the seeds that are done.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from kept import begun, handed_over, kept
from results import table, write_section

from maquette.coarse.train import run_coarse
from maquette.common.begin import Choices
from maquette.common.embedded.door import keep_priors
from maquette.common.runs.failure import SEEDS, FailedError, OnFailure, next_seed
from maquette.common.runs.folder import Run
from maquette.common.runs.history import read_events
from maquette.common.runs.watching import Watching, choose

SMALL = ("handoff.resolution=48", "handoff.views=16", "handoff.view_resolution=64")


def kinds(run: Run) -> list[str]:
    """The kinds of the failures that a run has recorded, without repeats."""
    events = [e for e in read_events(run.folder) if e["event"] == "failed"]
    return list(dict.fromkeys(str(e.get("kind")) for e in events))


def ended(run: Run, answer: OnFailure) -> str:
    """What became of a run's coarse stage: "" if it is well, else what kind of failure."""
    try:
        run_coarse(run, on_failure=answer)
        handed_over(run)
    except FailedError as failed:
        return failed.kind
    told = kinds(run) if answer == "tell" else []
    return told[0] if told else ""


def retried(run: Run) -> int | None:
    """How many other seeds it took until a run was well, as the retries go; None if none was."""
    for tries in range(SEEDS + 1):
        if not ended(run, "retry"):
            return tries
        if tries < SEEDS:
            run = next_seed(run)
    return None


def measured(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One seed: how it ended without an answer, and after how many retries with one."""
    settings = (f"coarse.steps={options.steps}", "coarse.checkpoint_every=25", *SMALL)

    def run_at(name: str) -> Run:
        choices = Choices(settings=(*settings, *options.settings), seed=seed, device="cpu")
        return begun(options.prompt, options.runs / f"{options.steps}-steps" / name, choices)

    before = run_at(f"{seed}")

    def make() -> dict[str, Any]:
        kind = ended(before, "tell")
        return {"before": kind, "after": retried(run_at(f"{seed}-retried")) if kind else 0}

    return kept(before, make)


def report(found: list[dict[str, Any]], options: argparse.Namespace) -> str:
    """The section's text."""
    failed = [each for each in found if each["before"]]
    lost = [each for each in failed if each["after"] is None]
    by_kind = {kind: sum(e["before"] == kind for e in failed) for kind in _names(failed)}
    rows = [
        ["rules told, not acted on", str(len(found)), f"{len(failed)}", f"{_share(failed, found)}"],
        ["--on-failure retry", str(len(found)), f"{len(lost)}", f"{_share(lost, found)}"],
    ]
    kinds_told = ", ".join(f"{kind} {count}" for kind, count in by_kind.items()) or "none"
    changed = f" with {', '.join(options.settings)}" if options.settings else ""
    return (
        f'"{options.prompt}", seeds 0 to {len(found) - 1}, the first {options.steps} steps as a '
        f"coarse stage of its own{changed} (learning rate and noise levels run their whole course "
        "within them), and a hand-off.\n\n"
        f"{table(['', 'seeds', 'collapsed', 'share'], rows)}\n\n"
        f"By kind, before: {kinds_told}. With none in n seeds the rate is below 3 / n at 95 %."
    )


def _names(failed: list[dict[str, Any]]) -> list[str]:
    return sorted({each["before"] for each in failed})


def _share(part: list[dict[str, Any]], whole: list[dict[str, Any]]) -> str:
    return f"{len(part) / max(1, len(whole)):.0%}"


def main() -> None:
    """Run seeds, count, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=50)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--prompt", default="a red mushroom")
    parser.add_argument("--runs", type=Path, default=Path("runs/collapse"))
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    choose(Watching(output="quiet", previews=0, films=False, log="none"))
    keep_priors()
    found = []
    for seed in range(options.seeds):
        found.append(measured(options, seed))
        print(f"seed {seed}: {found[-1]['before'] or 'well'}", flush=True)
        if not options.settings:
            write_section("collapse.py", report(found, options))


if __name__ == "__main__":
    main()
