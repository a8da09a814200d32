"""``python -m bench.gpu_models``: NewBie at its full size, with random weights, on a GPU. Writes ``gpu_newbie.json``.

What a picture of 1024 x 1024 in 28 steps takes at each memory tier, and the peak of memory, beside a bare loop over the
same modules and the time of its operations at the measured rate of matrix products.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

RESULT: Final = Path(__file__).parent / "results" / "gpu_newbie.json"
MEASURE: Final = "services.worker.backends.newbie.measure"


def main(arguments: list[str]) -> int:
    """Measure in a process of its own, with its arguments; returns its exit status."""
    done = subprocess.run([sys.executable, "-m", MEASURE, *arguments], stdout=subprocess.PIPE, check=False)
    if done.returncode == 0:
        RESULT.write_bytes(done.stdout)
        print(f"written to {RESULT}")
    return done.returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
