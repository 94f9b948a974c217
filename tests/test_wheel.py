"""The wheel: what is in it, and that it runs where the checkout is not."""

import os
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
import venv
import zipfile
from collections.abc import Callable
from email.parser import Parser
from pathlib import Path

import httpx
import pytest

from tests.service import ROOT, START_SECONDS, Service, chat_body, free_port, processes_with, wait_until

PACKAGES = ("broker", "cli", "demo", "gateway", "worker")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built as `uv tool install .` and `pipx install .` do."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
    [built] = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `bin` of an environment that has the wheel, and borrows what it depends on."""
    folder = tmp_path_factory.mktemp("installed")
    venv.create(folder, with_pip=False, symlinks=True)
    python = folder / "bin" / "python"
    own = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder), "platbase": str(folder)}))
    (own / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-compile", "--quiet"]
    subprocess.run([*pip, "--no-index", str(wheel)], check=True, timeout=60)
    return folder / "bin"


def test_it_holds_every_file_of_the_packages_and_nothing_else(wheel: Path) -> None:
    there = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "broker/models/architectures.json" in there
    with zipfile.ZipFile(wheel) as archive:
        packed = set(archive.namelist())
    own = {name for name in packed if name.startswith("mlx_broker-")}
    assert packed - own == there
    licences = {Path(name).name for name in own if "/licenses/" in name}
    assert licences == {"LICENSE"} | ({"THIRD_PARTY.md"} if (ROOT / "THIRD_PARTY.md").exists() else set())


def test_its_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        metadata = Parser().parsestr(archive.read(name).decode())
        scripts = archive.read(name.replace("METADATA", "entry_points.txt")).decode()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    needed = {dependency.partition(";")[0] for dependency in metadata.get_all("Requires-Dist", [])}
    assert needed == {dependency.partition(";")[0] for dependency in project["dependencies"]}
    assert metadata["Requires-Python"] == "<3.15,>=3.11"
    assert scripts.split() == ["[console_scripts]", "mlx-broker", "=", "cli.main:main"]


def test_the_command_says_its_version(installed: Path, tmp_path: Path) -> None:
    command = [str(installed / "mlx-broker"), "--version"]
    said = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60)
    assert (said.stdout, said.stderr, said.returncode) == ("mlx-broker 0.1.0\n", "", 0)


def test_it_serves_where_other_packages_of_these_names_lie(
    installed: Path, make_service: Callable[..., Service]
) -> None:
    """An engine of the user's own is found there all the same."""
    models = {"mine": {"type": "echo", "engine": "mine:Mine"}}
    service = make_service(start=False, models=models, broker={"preload_models": ["mine"]})
    (service.directory / "mine.py").write_text("from worker.echo.engine import EchoEngine as Mine\n")
    for name in PACKAGES:
        (service.directory / name).mkdir()
        (service.directory / name / "__init__.py").write_text(f"raise SystemExit('{name} of somebody else')\n")
    del service.environment["PYTHONPATH"]
    with (service.directory / "broker.log").open("wb") as log:
        serving = subprocess.Popen(
            [installed / "mlx-broker", "serve"], cwd=service.directory, env=service.environment, stdout=log, stderr=log
        )
    try:
        wait_until(service.healthy, START_SECONDS, lambda: f"{service.log('broker')}health")
        entry = service.wait_state("mine", "ready")
        assert service.chat("mine", "Hello").json()["choices"][0]["message"]["content"].startswith("Hello")
        [worker] = [process for process in processes_with(service.token) if process.pid == entry["pid"]]
        assert worker.cmdline()[:3] == [str(installed / "python"), "-m", "worker"]
    finally:
        serving.terminate()
        assert serving.wait(15) == 0, service.log("broker")


@pytest.mark.slow
@pytest.mark.timeout(1200)  # fetches everything that serving needs
def test_it_serves_the_demo_model_from_an_environment_that_had_nothing(wheel: Path, tmp_path: Path) -> None:
    """pip installs it with all that it names. Home, cache and directories are empty."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLX_BROKER_")}
    venv.create(tmp_path / "venv", with_pip=True, symlinks=True)
    bin_directory = tmp_path / "venv" / "bin"
    pip = [str(bin_directory / "python"), "-m", "pip"]
    subprocess.run([*pip, "install", "--no-compile", "--quiet", str(wheel)], check=True, env=environment)
    subprocess.run([*pip, "check"], check=True, env=environment)
    with tempfile.TemporaryDirectory(prefix="mlxb-") as runtime:
        environment |= {
            "MLX_BROKER_RUNTIME_DIR": runtime,
            "HOME": str(tmp_path / "home"),
            "XDG_STATE_HOME": str(tmp_path / "state"),
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
            "MLX_BROKER_URL": f"http://127.0.0.1:{free_port()}",
        }
        environment["MLX_BROKER_PORT"] = environment["MLX_BROKER_URL"].rpartition(":")[2]

        def command(*words: str) -> str:
            done = subprocess.run(
                [str(bin_directory / "mlx-broker"), *words],
                cwd=tmp_path,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout

        assert "demo model: ready after" in command("serve", "--detach")
        try:
            answer = httpx.post(
                f"{environment['MLX_BROKER_URL']}/v1/chat/completions",
                json=chat_body("SmolLM2-135M-Instruct", "What is the capital of France?"),
                timeout=120,
            )
            assert "Paris" in answer.json()["choices"][0]["message"]["content"]
        finally:
            assert command("stop").startswith("stopped the service")
