"""The runtime directory is emptied under a running service, as systems do that clean up."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ECHO
from tests.service import Service, wait_until

FILES = ("gateway.sock", "worker.sock", "lock")


def second_broker(service: Service) -> tuple[int, str]:
    """Exit code and complaint of another broker in the same place."""
    run = subprocess.run(
        [sys.executable, "-m", "broker"],
        cwd=service.directory,
        env=service.environment,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return run.returncode, run.stderr


def test_loads_still_work_and_no_second_broker_starts(make_service: Callable[..., Service]) -> None:
    service = make_service(models={"echo": ECHO, "other": ECHO})
    assert service.broker is not None
    run = service.directory / "run"
    assert service.chat("echo").status_code == 200
    told = f"another broker (pid {service.broker.pid}) is running in {run}"

    _remove(run)
    code, complaint = second_broker(service)
    assert code == 2
    assert complaint.startswith("broker: another broker ")
    assert service.chat("other").status_code == 200  # in a new process, which has to find its socket
    assert service.chat("echo").status_code == 200
    code, complaint = second_broker(service)
    assert (code, told in complaint) == (2, True)

    run.rename(service.directory / "gone")  # in one step: the broker must not make files in it meanwhile
    shutil.rmtree(service.directory / "gone")
    wait_until(lambda: all((run / name).exists() for name in FILES), 10.0, "the files")
    code, complaint = second_broker(service)
    assert (code, told in complaint) == (2, True)
    assert service.unload("echo").status_code == 200
    assert service.chat("echo").status_code == 200
    assert service.gateway is not None
    service.gateway.terminate()
    service.gateway.wait(10)
    service.start_gateway()  # a new one finds its socket too
    assert service.chat("other").status_code == 200


def _remove(run: Path) -> None:
    for name in FILES:
        (run / name).unlink()
