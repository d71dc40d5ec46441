"""An export cut off fifty times at random moments: what is left is the old set or the new one.

    python benchmarks/export_cut.py [--cuts 50]

The suite makes a few such cuts (`tests/fine/test_export_cut.py`); this makes more of them.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
TEST = "tests/fine/test_export_cut.py"


def main() -> int:
    """Run the suite's own test with more cuts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cuts", type=int, default=50)
    given = parser.parse_args()
    command = [sys.executable, "-m", "pytest", "-q", TEST]
    environment = {**os.environ, "MAQUETTE_CUTS": str(given.cuts)}
    return subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
