"""Looking on for many fronts while a stage grows: told in time, and a failure at its end."""

from __future__ import annotations

import math
from collections.abc import Callable

from ..guidance.faces import tell_faces
from ..guidance.judges import Panel, Views
from ..runs.failure import Watch
from ..runs.folder import Run
from ..runs.stage import Stage
from ..scene.cameras import Cameras

EARLY, LONG = 0.75, 1000
"""Share of a stage after which it is looked at for the first time, if it has so many steps that a
look costs little of it; the last look is at its end."""


class FrontWatch:
    """Asks the prior among a stage's judges how many views from behind look like a front.

    See `guidance.faces.tell_faces`. It draws no random numbers of the run and changes nothing.
    """

    def __init__(
        self,
        run: Run,
        stage: Stage,
        judges: Panel,
        watch: Watch,
        judged: Callable[[Cameras, int], Views],
    ) -> None:
        """watch: of the stage, told of a failure. judged: its scene's views, at a step."""
        self._run, self._stage, self._judges = run, stage, judges
        self._watch, self._judged = watch, judged
        self._steps = {watch.total}
        if watch.total >= LONG:
            self._steps.add(math.ceil(EARLY * watch.total))

    def look(self, index: int) -> None:
        """See what step `index`, from 0, has made, if it is time for it."""
        step = index + 1
        if step not in self._steps:
            return

        def look(cameras: Cameras) -> Views:
            return self._judged(cameras, index)

        found = tell_faces(self._run, self._stage, self._judges, look, step)
        if found is not None and found.many and step == self._watch.total:
            self._watch.failed("many fronts", step, found.told)
