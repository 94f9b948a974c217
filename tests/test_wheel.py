"""The wheel: what is in it, and that it runs where the checkout is not."""

import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.service import ROOT

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
