"""Which processes belong to a stack."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from infra.native import processes


@pytest.mark.exhaustive
def test_a_session_with_its_descendants_is_found_and_ended() -> None:
    # A child that leaves the session, as Erlang's helpers do, and ignores a polite request.
    child = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    )
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}], start_new_session=True)"
    command = [sys.executable, "-c", parent]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        members = processes.belonging_to(process.pid)
        assert len(members) == 2
        assert {member.parent for member in members} == {os.getpid(), process.pid}
        assert processes.still_there(members) == members
        processes.end(members, seconds=0.3)
        assert not processes.still_there(members)


def test_a_later_process_with_the_same_pid_is_another_one() -> None:
    own = processes.find(os.getpid())
    assert own
    earlier = processes.Process(own.pid, own.started - 1, own.parent, own.session, own.name)
    assert processes.still_there([own, earlier]) == {own}


def test_a_process_that_ended_but_was_not_waited_for_is_gone() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""], stdout=subprocess.PIPE)
    with process:
        assert process.stdout
        process.stdout.read()
        assert not processes.wait_gone([found] if (found := processes.find(process.pid)) else [], seconds=10)
        assert processes.find(process.pid) is None
