"""docs/upstream.md has a row for each contract test and each file that needs one, and names what the files use."""

import ast
import re
from pathlib import Path

import pytest

from tests.service import ROOT

# Libraries of which this project uses parts that their documentation does not promise.
UNPROMISED = (
    *("mlx_lm", "mlx_vlm", "transformers", "llguidance", "huggingface_hub", "uvicorn", "httpcore2"),
    "zmq.utils.monitor",
)
_CODE = re.compile(r"`([^`]+)`")


def rows() -> list[tuple[list[str], list[str], list[str]]]:
    """(files, names that are used, tests) of each row."""
    found = []
    for line in (ROOT / "docs/upstream.md").read_text().splitlines():
        if line.startswith("| `"):
            cells = line.strip("| ").split(" | ")
            assert len(cells) == 5, line
            found.append((_CODE.findall(cells[0]), _CODE.findall(cells[1]), _CODE.findall(cells[4])))
    return found


def contract_tests() -> list[str]:
    return [
        node.name
        for path in Path(__file__).parent.glob("test_*.py")
        if path != Path(__file__)
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]


def imports(path: Path) -> set[str]:
    """`package.module` and `package.module.name` of everything that the file imports."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            names |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return names


def test_each_row_has_one_test_and_each_test_one_row() -> None:
    named = [test for _, _, of_row in rows() for test in of_row]
    assert all(len(of_row) == 1 for _, _, of_row in rows())
    assert sorted(named) == sorted(contract_tests())
    assert len(named) > 20


@pytest.mark.parametrize(("files", "names", "test"), [(f, n, t[0]) for f, n, t in rows()], ids=lambda x: str(x)[:60])
def test_the_files_of_a_row_use_what_it_names(files: list[str], names: list[str], test: str) -> None:
    files += [name for name in names if name.endswith(".py")]
    source = "".join((ROOT / file).read_text() for file in files)
    for name in names:
        if not name.endswith(".py"):
            for part in name.split("."):
                assert re.search(rf"\b{re.escape(part)}\b", source), f"{test}: {files} do not use {name}"


def test_every_file_that_uses_such_a_library_has_a_row() -> None:
    listed = {file for files, _, _ in rows() for file in files}
    for package in ("broker", "worker", "gateway"):
        for path in (ROOT / package).rglob("*.py"):
            name = path.relative_to(ROOT).as_posix()
            needs = {of for of in imports(path) if any(of == lib or of.startswith(f"{lib}.") for lib in UNPROMISED)}
            assert not needs or name in listed, f"{name} uses {sorted(needs)} and has no row in docs/upstream.md"
