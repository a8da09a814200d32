from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

from shared.http.gathered_lines import PIPE_BUF

ROOT: Final = Path(__file__).parents[3]
LINE: Final = "x" * 499
# Every write of the stream below it is told on standard error.
PROGRAM: Final = """
import sys, gevent
from shared.http.gathered_lines import gathered

class Out:
    def write(self, text):
        print(len(text), file=sys.stderr)
        return sys.stdout.write(text)
    def flush(self):
        sys.stdout.flush()

log = gathered(Out())
def turn(count):
    for number in range(count):
        log.write(f"{number:03} {'x' * 495}\\n")
        log.flush()
turn(3)
gevent.sleep(0)
turn(20)
gevent.sleep(0)
turn(2)
"""


def test_a_turns_lines_go_out_together_in_order_and_none_is_lost_at_the_end() -> None:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, env=environment, timeout=60
    )
    numbers = [int(line[:3]) for line in done.stdout.splitlines()]
    assert numbers == [*range(3), *range(20), *range(2)]
    assert {len(line) for line in done.stdout.splitlines()} == {len(LINE)}
    # 500 bytes a line, eight lines in what a pipe takes in one piece.
    assert [int(size) for size in done.stderr.split()] == [1500, 4000, 4000, 2000, 1000]
    assert PIPE_BUF == 4096
