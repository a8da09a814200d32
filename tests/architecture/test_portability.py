"""The checkout works wherever it lies: nothing in it names a place on somebody's machine."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import Final

from tests.architecture.source import ROOT

# Folders of people and of build machines; paths of the distribution's packages (/usr/lib/...) are the same everywhere.
PLACES: Final = re.compile(r"(?<![\w.})-])/(home/[a-z]|root/|Users/[A-Za-z]|work/)")


def test_no_tracked_file_names_a_place_on_somebodys_machine() -> None:
    listed = subprocess.run(
        [shutil.which("git") or "git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    )
    assert listed.returncode == 0, listed.stderr
    found = []
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        body = path.read_bytes() if path.is_file() else b""
        if b"\0" not in body and PLACES.search(body.decode(errors="replace")):
            found.append(name)
    assert found == []
