"""The machine sleeps, or everything is stopped: nobody is taken for dead afterwards."""

import contextlib
import os
import signal
import time
from collections.abc import Callable

import psutil
import pytest

from gateway.link.connection import HEARTBEAT_TIMEOUT
from tests.conftest import ECHO
from tests.service import Service, processes_with

PACED = ECHO | {"options": {"delay_seconds": 0.02}}


@pytest.mark.slow
def test_a_stream_goes_on_after_everything_was_stopped(make_service: Callable[..., Service]) -> None:
    """For longer than the patience of broker and gateway."""
    service = make_service(broker={"heartbeat_timeout_seconds": 2.0}, models={"paced": PACED})
    with service.stream("paced", "Hi", max_tokens=200) as stream:
        stream.next_text()
        pid = service.model("paced")["pid"]
        # Those who judge go on first, and find that nobody has said anything.
        order = {"gateway": 0, "broker": 1, "worker": 2}
        processes = sorted(processes_with(service.token), key=lambda process: order[process.cmdline()[2]])
        _stop(processes, HEARTBEAT_TIMEOUT + 1.0)
        assert stream.finish().done
    assert (stream.error, stream.text) == (None, "Hi" * 200)
    entry = service.model("paced")
    assert (entry["pid"], entry["last_exit"]) == (pid, None)


def _stop(processes: list[psutil.Process], seconds: float) -> None:
    for process in reversed(processes):
        os.kill(process.pid, signal.SIGSTOP)
    try:
        time.sleep(seconds)  # the length of the pause is what is tested
    finally:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process.pid, signal.SIGCONT)
            time.sleep(0.2)  # each has its time to judge the others
