"""Who may import whom. A rule that breaks names the file; the rules themselves are in docs/architecture.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import ROOT

MODULES = sorted(
    path.relative_to(ROOT).as_posix()
    for package in ("broker", "worker", "gateway")
    for path in (ROOT / package).rglob("*.py")
)

GATEWAY = {module for module in MODULES if module.startswith("gateway/")}
# What a worker has loaded before its model's engine is chosen, and what engines without a model need.
LIGHT = {
    f"worker/{name}.py" for name in ("__init__", "__main__", "service", "lifeline", "engine", "echo_engine", "prompt")
}
ENGINES = {module for module in MODULES if module.startswith("worker/")} - LIGHT
# Heavy or tricky packages, and the only files that may know them.
OWNERS = {
    "zmq": {"broker/loop.py", "worker/service.py", "gateway/broker_client.py"},
    "msgpack": {"broker/protocol.py"},
    "psutil": {"broker/processes/memory.py"},
    "mlx": ENGINES,
    "mlx_lm": ENGINES,
    "mlx_vlm": ENGINES,
    "transformers": ENGINES,
    "PIL": ENGINES,
    "httpcore2": {"gateway/addresses.py", "gateway/images.py"},
    "httpx2": {"gateway/images.py"},
    "huggingface_hub": {"worker/download.py"},
    "starlette": GATEWAY,
    "uvicorn": GATEWAY,
}
WIRE = {"broker.protocol"}
# The pure part of the broker, with all that it may import beside the standard library.
PURE = {
    "broker/policy/pool.py": {
        "broker.policy.events",
        "broker.policy.eviction",
        "broker.policy.facts",
        "broker.policy.state",
        "broker.policy.restart",
    },
    "broker/policy/facts.py": {
        "broker.policy.events",
        "broker.policy.eviction",
        "broker.policy.state",
        "broker.policy.restart",
    },
    "broker/policy/state.py": {"broker.policy.events"},
    "broker/policy/downloads.py": {"broker.policy.events", "broker.policy.state"},
    "broker/policy/snapshot.py": {"broker.policy.downloads", "broker.policy.pool", "broker.policy.state"},
    "broker/policy/events.py": set(),
    "broker/policy/eviction.py": set(),
    "broker/policy/flow.py": set(),
    "broker/policy/restart.py": set(),
}
IMPURE = {
    "asyncio",
    "time",
    "os",
    "socket",
    "logging",
    "threading",
    "subprocess",
    "random",
    "datetime",
    "pathlib",
    "io",
}


def imports_of(module: str) -> set[str]:
    """Every module that the file names in an import, at any depth: `from a import b` is a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(Path(ROOT / module).read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            package = node.module or ""
            submodules = {f"{package}.{alias.name}" for alias in node.names} & {_dotted(m) for m in MODULES}
            names |= submodules or {package}
    return names


def _dotted(module: str) -> str:
    return module.removesuffix(".py").replace("/", ".")


def _own(names: set[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in ("broker", "worker", "gateway", "tests")}


@pytest.mark.parametrize("module", MODULES)
def test_a_package_is_imported_only_where_it_belongs(module: str) -> None:
    top = {name.partition(".")[0] for name in imports_of(module)}
    for package in top & OWNERS.keys():
        assert module in OWNERS[package], f"{module} imports {package}; only {sorted(OWNERS[package])} may"
    assert "tests" not in top, f"{module} imports the tests"


@pytest.mark.parametrize("module", MODULES)
def test_the_three_processes_share_only_the_wire(module: str) -> None:
    package = module.partition("/")[0]
    foreign = {name for name in _own(imports_of(module)) if name.partition(".")[0] != package}
    allowed = set() if package == "broker" else WIRE
    assert foreign <= allowed, f"{module} imports {sorted(foreign - allowed)}; {package} may only {sorted(allowed)}"


@pytest.mark.parametrize("module", PURE)
def test_the_pool_and_its_parts_are_pure(module: str) -> None:
    names = imports_of(module)
    assert _own(names) <= PURE[module], f"{module} imports {sorted(_own(names) - PURE[module])}"
    outside = {name.partition(".")[0] for name in names - _own(names)}
    assert outside <= sys.stdlib_module_names, f"{module} imports {sorted(outside - sys.stdlib_module_names)}"
    assert not outside & IMPURE, f"{module} imports {sorted(outside & IMPURE)}: pure code gets such facts as arguments"


def test_the_wire_imports_nothing_else_of_the_project() -> None:
    assert _own(imports_of("broker/protocol.py")) == set()


def test_the_packages_are_empty_so_that_importing_one_module_stays_cheap() -> None:
    for package in ("broker", "worker", "gateway"):
        assert (ROOT / package / "__init__.py").read_text() == ""


@pytest.mark.parametrize(
    ("module", "needs", "without"),
    [
        ("broker.protocol", {"msgpack"}, {"zmq", "psutil", "pydantic", "mlx", "starlette", "asyncio"}),
        ("broker.policy.pool", set(), {"msgpack", "zmq", "psutil", "pydantic", "asyncio", "logging"}),
        ("broker.loop", {"zmq", "psutil"}, {"mlx", "mlx_lm", "numpy", "transformers", "starlette"}),
        ("worker.engine", {"msgpack"}, {"zmq", "psutil", "pydantic", "mlx", "numpy", "transformers"}),
        ("worker.service", {"zmq"}, {"psutil", "pydantic", "mlx", "numpy", "transformers"}),
        ("worker.text_engine", {"mlx_lm"}, {"mlx_vlm", "zmq"}),
        ("worker.__main__", set(), {"zmq", "msgpack", "mlx", "numpy", "transformers", "asyncio"}),
        ("gateway.app", {"starlette", "zmq"}, {"mlx", "mlx_lm", "numpy", "transformers", "psutil"}),
    ],
)
def test_what_a_process_loads(module: str, needs: set[str], without: set[str]) -> None:
    probe = f"import sys, {module}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    result = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True
    )
    loaded = set(result.stdout.split())
    assert needs <= loaded
    assert not loaded & without, f"import {module} loads {sorted(loaded & without)}"
