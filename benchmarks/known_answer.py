"""How near the pipeline comes to known answers: captions whose true mesh the toybox knows.

    python benchmarks/known_answer.py                 # 12 captions, exact prior
    python benchmarks/known_answer.py --prior NAME --limit 4

Runs every caption with the default configuration, scores the mesh after the hand-off and after the
fine stage, writes a table into RESULTS.md and a contact sheet into docs/images/. Runs are kept in
`runs/known-answer/`, so a second call goes on where the first one stopped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from results import table, write_section

from coarse.train import run_coarse
from common.begin import begin
from common.cameras import orbit
from common.images import save_strip
from common.runs import Run, slug
from common.toybox.objects import build
from common.toybox.score import NEUTRAL, Scores, unlit_views
from common.toybox.studio import albedo_views
from fine.evaluate import evaluate_run, textured
from fine.train import load_finished, run_fine

CAPTIONS = (
    "a red mushroom",
    "a blue chair",
    "a yellow duck",
    "a green cactus",
    "a purple mug",
    "an orange cat",
    "a teal car",
    "a pink house",
    "a white rocket",
    "a striped red and white fish",
    "a dotted blue teapot",
    "a checkered green turtle",
)


def main() -> None:
    """Run, score, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--prior", default="exact")
    parser.add_argument("--limit", type=int, default=len(CAPTIONS), help="first captions only")
    parser.add_argument("--runs", type=Path, default=Path("runs/known-answer"))
    parser.add_argument("--set", action="append", default=[], dest="settings")
    options = parser.parse_args()
    runs = [finished_run(c, options) for c in CAPTIONS[: options.limit]]
    scored = [(run, evaluate_run(run, "handoff"), evaluate_run(run)) for run in runs]
    body = report(scored)
    print(body)
    name = f"known_answer-{options.prior}.png"
    save_strip(torch.cat([row(run) for run in runs]), Path("docs/images") / name, columns=12)
    if options.limit == len(CAPTIONS) and not options.settings:
        write_section(f"known_answer.py --prior {options.prior}", body)


def finished_run(caption: str, options: argparse.Namespace) -> Run:
    """The finished coarse and fine stages of a caption."""
    folder = options.runs / options.prior / slug(caption)
    run = begin(caption, None, options.settings, options.prior, out=str(folder))
    run_coarse(run)
    run_fine(run)
    return run


def report(scored: list[tuple[Run, Scores, Scores]]) -> str:
    """The table of scores, with means and the lowest F-score."""
    header = ["caption", *(f"{s} {w}" for s in ("F", "IoU", "PSNR") for w in ("hand-off", "fine"))]
    rows = [[run.config.prompt, *cells(first, fine)] for run, first, fine in scored]
    firsts, fines = [s for _, s, _ in scored], [s for _, _, s in scored]
    rows.append(["**mean**", *cells(mean(firsts), mean(fines))])
    lowest = min(s.f_score for s in fines)
    return (
        f"F-score at 0.03, silhouette IoU and unlit PSNR (dB) over 24 views, after the hand-off "
        f"and after the fine stage.\n\n{table(header, rows)}\n\n"
        f"Lowest F-score: {lowest:.3f}. Mean Chamfer distance after the fine stage: "
        f"{mean(fines).chamfer:.4f} (the object's radius is 0.9)."
    )


def cells(first: Scores, fine: Scores) -> list[str]:
    """Scores before and after as text, pair by pair."""
    pairs = ((first.f_score, fine.f_score), (first.iou, fine.iou))
    texts = [f"{value:.3f}" for pair in pairs for value in pair]
    return [*texts, f"{first.psnr:.1f}", f"{fine.psnr:.1f}"]


def mean(scores: list[Scores]) -> Scores:
    """The mean of each score."""
    count = len(scores)
    return Scores(
        f_score=sum(s.f_score for s in scores) / count,
        chamfer=sum(s.chamfer for s in scores) / count,
        iou=sum(s.iou for s in scores) / count,
        psnr=sum(s.psnr for s in scores) / count,
    )


def row(run: Run) -> torch.Tensor:
    """Three views of what came out, then the same of the truth: `[6, H, H, 3]`."""
    cameras = orbit(8)[torch.tensor([1, 3, 6])]
    found, _ = unlit_views(textured(load_finished(run)), cameras, 160)
    true, _ = albedo_views(build(run.config.prompt), cameras, 160, NEUTRAL)
    return torch.cat([found, true])


if __name__ == "__main__":
    main()
