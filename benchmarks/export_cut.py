"""An export cut off fifty times at random moments: what is left is the old set or the new one.

    python benchmarks/export_cut.py [--cuts 50]

The suite makes a few such cuts (`tests/fine/test_export_cut.py`); this makes more of them.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from results import write_section

ROOT = Path(__file__).parents[1]
TEST = "tests/fine/test_export_cut.py"


def main() -> int:
    """Run the suite's own test with more cuts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=50)
    given = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", "-s", TEST]
    environment = {**os.environ, "MAQUETTE_CUTS": str(given.cuts)}
    ended = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True, check=False
    )
    print(ended.stdout)
    killed = re.search(r"(\d+) of \d+ exports were killed", ended.stdout)
    if ended.returncode == 0 and killed is not None:
        write_section(
            "export_cut.py",
            f"{given.cuts} exports of a small run, each with an alarm at a random moment that ends "
            "the process on the spot, half of the moments where files are swapped; "
            f"{killed[1]} were still at it. After each the files were bit for bit the old set or "
            f"the new one, and every fourth was resumed and ended as asked for: {given.cuts} of "
            f"{given.cuts}.",
        )
    return ended.returncode


if __name__ == "__main__":
    sys.exit(main())
