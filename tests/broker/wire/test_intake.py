"""The intake mark outlives the process that wrote it."""

import signal
import subprocess
import sys

from broker.wire.intake import IntakeMark, intake_file
from tests.service import ROOT

REQUEST = b"gateway1" + bytes(range(8))
WRITER = """
import os, signal, sys, threading
from worker.process.intake import open_mark, taking_in
open_mark(int(sys.argv[1]))
with taking_in(bytes.fromhex(sys.argv[2])):
    pass
if sys.argv[3] in ("ahead", "both"):
    def take_in():
        with taking_in(bytes.fromhex(sys.argv[2])):
            inside.set()
            threading.Event().wait()
    inside = threading.Event()
    threading.Thread(target=take_in, daemon=True).start()
    inside.wait()
if sys.argv[3] == "both":
    with taking_in(b"gateway2" + bytes(range(8))):
        os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[3] == "inside":
    with taking_in(bytes.fromhex(sys.argv[2])):
        os.kill(os.getpid(), signal.SIGKILL)
os.kill(os.getpid(), signal.SIGKILL)
"""


def mark_left_by(where: str) -> bytes | None:
    with intake_file() as fd:
        command = [sys.executable, "-c", WRITER, str(fd), REQUEST.hex(), where]
        result = subprocess.run(command, cwd=ROOT, pass_fds=(fd,), check=False, timeout=30)
        assert result.returncode == -signal.SIGKILL
        mark = IntakeMark(fd)
    marked = mark.request_id
    mark.close()
    return marked


def test_the_mark_of_a_process_that_was_killed_while_it_took_a_request_in() -> None:
    assert mark_left_by("inside") == REQUEST


def test_the_mark_of_a_thread_that_took_a_request_in() -> None:
    assert mark_left_by("ahead") == REQUEST


def test_of_two_requests_none_is_named() -> None:
    """Only one of them can have ended the process."""
    assert mark_left_by("both") is None


def test_no_mark_is_left_outside() -> None:
    assert mark_left_by("outside") is None


def test_a_process_without_a_mark_takes_requests_in_all_the_same() -> None:
    code = "from worker.process.intake import taking_in\nwith taking_in(bytes(16)): print('in')"
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True, timeout=30
    )
    assert result.stdout == "in\n"
