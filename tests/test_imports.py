"""Who may import whom. The rules are folders, and docs/architecture.md lists them.

Two kinds of proof. The text of every file: which packages it names (a lazy import inside a function counts too). And a
fresh process for every module of a folder that claims to be pure or light: what importing it really loads.
"""

import ast
import functools
import subprocess
import sys
from pathlib import Path

import pytest

from tests.service import ROOT

PACKAGES = ("broker", "worker", "gateway", "demo")
MODULES = sorted(path.relative_to(ROOT).as_posix() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))

# Heavy or tricky packages, and the folders or files that may name them.
OWNERS = {
    "zmq": ("broker/sockets.py", "worker/service.py", "gateway/link/"),
    "msgpack": ("broker/wire/",),
    "psutil": ("broker/processes/",),
    "mlx": ("worker/", "demo/"),
    "mlx_lm": ("worker/",),
    "mlx_vlm": ("worker/vision/", "worker/embeddings/", "worker/loading/architectures.py"),
    "transformers": ("worker/",),
    "PIL": ("worker/vision/",),
    "httpcore2": ("gateway/images/",),
    "httpx2": ("gateway/images/",),
    "huggingface_hub": ("worker/hub/",),
    "starlette": ("gateway/",),
    "uvicorn": ("gateway/http/",),
}
COMPUTING = {"mlx", "mlx_lm", "mlx_vlm", "numpy", "transformers"}
# Folder or file -> what importing any of its modules must not load, directly or through others.
NEVER_LOADS = {
    "broker/policy/": {
        "msgpack",
        "zmq",
        "psutil",
        "pydantic",
        "socket",
        "asyncio",
        "logging",
        "subprocess",
        "threading",
    },
    "broker/wire/": {"zmq", "psutil", "pydantic", "starlette", "asyncio", "subprocess", *COMPUTING},
    "broker/": COMPUTING | {"starlette", "uvicorn", "huggingface_hub"},
    "gateway/": COMPUTING | {"psutil", "huggingface_hub"},
    "worker/service.py": COMPUTING | {"psutil", "pydantic", "asyncio"},
    "worker/engine.py": COMPUTING | {"zmq", "psutil", "pydantic"},
    "worker/options.py": COMPUTING | {"zmq", "msgpack"},
    "worker/echo/": COMPUTING | {"zmq", "pydantic"},
    "worker/process/": COMPUTING | {"zmq", "msgpack"},
    "worker/__main__.py": COMPUTING | {"zmq", "msgpack", "asyncio"},
    "worker/text/": {"mlx_vlm", "zmq"},
}
# Rooms of one floor: none of them may import another.
ENGINES = ("worker/text/", "worker/vision/", "worker/embeddings/", "worker/echo/")
DIALECTS = ("gateway/openai/",)
# Standard library that the policy must not name: such facts are arguments.
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


@functools.cache
def imports_of(module: str) -> frozenset[str]:
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
    return frozenset(names)


@functools.cache
def loaded_by(module: str) -> frozenset[str]:
    """The top-level packages that a fresh process has loaded after importing this one module."""
    probe = f"import sys; bare = set(sys.modules); import {_dotted(module)}; print(*(set(sys.modules) - bare))"
    result = subprocess.run(
        [sys.executable, "-c", probe], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    return frozenset(name.partition(".")[0] for name in result.stdout.split())


def _dotted(module: str) -> str:
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def _own(names: frozenset[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in (*PACKAGES, "tests")}


def _in(module: str, places: tuple[str, ...]) -> bool:
    return any(module == place or (place.endswith("/") and module.startswith(place)) for place in places)


@pytest.mark.parametrize("module", MODULES)
def test_a_package_is_named_only_where_it_belongs(module: str) -> None:
    top = {name.partition(".")[0] for name in imports_of(module)}
    for package in top & OWNERS.keys():
        assert _in(module, OWNERS[package]), f"{module} imports {package}; only {OWNERS[package]} may"
    assert "tests" not in top, f"{module} imports the tests"


@pytest.mark.parametrize("module", MODULES)
def test_the_processes_share_only_the_wire(module: str) -> None:
    package = module.partition("/")[0]
    foreign = {name for name in _own(imports_of(module)) if name.partition(".")[0] != package}
    allowed = {name for name in foreign if name.startswith("broker.wire")} if package != "broker" else set()
    assert foreign <= allowed, f"{module} imports {sorted(foreign - allowed)}; only broker/wire is shared"


@pytest.mark.parametrize("module", [module for module in MODULES if _in(module, ("broker/wire/",))])
def test_the_wire_imports_nothing_else_of_the_project(module: str) -> None:
    assert all(name.startswith("broker.wire") for name in _own(imports_of(module)))


@pytest.mark.parametrize("module", [module for module in MODULES if _in(module, ("broker/policy/",))])
def test_the_policy_names_no_clock_file_or_socket(module: str) -> None:
    names = imports_of(module)
    own = _own(names)
    assert all(name.startswith(("broker.policy", "broker.wire")) for name in own), f"{module} imports {sorted(own)}"
    outside = {name.partition(".")[0] for name in names - own}
    assert outside <= sys.stdlib_module_names, f"{module} imports {sorted(outside - sys.stdlib_module_names)}"
    assert not outside & IMPURE, f"{module} imports {sorted(outside & IMPURE)}: pure code gets such facts as arguments"


@pytest.mark.parametrize("floor", [ENGINES, DIALECTS])
def test_rooms_of_one_floor_do_not_import_each_other(floor: tuple[str, ...]) -> None:
    for room in floor:
        others = tuple(_dotted(other.rstrip("/")) for other in floor if other != room)
        for module in (module for module in MODULES if module.startswith(room)):
            wrong = [name for name in imports_of(module) if name.startswith(others)] if others else []
            assert not wrong, f"{module} imports {wrong}"


def test_the_packages_are_empty_so_that_importing_one_module_stays_cheap() -> None:
    for module in MODULES:
        if module.endswith("__init__.py"):
            assert (ROOT / module).read_text() == "", f"{module} is not empty"


def _claims() -> list[tuple[str, str]]:
    """(module, the most exact place that promises something of it), for modules that can be imported by themselves."""
    return [
        (module, max(places, key=len))
        for module in MODULES
        if not module.endswith("__init__.py") and (places := [place for place in NEVER_LOADS if _in(module, (place,))])
    ]


@pytest.mark.parametrize(("module", "place"), _claims())
def test_what_a_place_promises_not_to_load(module: str, place: str) -> None:
    loaded = loaded_by(module) & NEVER_LOADS[place]
    assert not loaded, f"import {_dotted(module)} loads {sorted(loaded)}, which {place} promises not to"


@pytest.mark.parametrize(
    ("module", "needs"),
    [
        ("broker/assembly.py", {"zmq", "msgpack", "pydantic"}),
        ("broker/processes/supervisor.py", {"psutil"}),
        ("worker/service.py", {"zmq", "msgpack"}),
        ("worker/text/engine.py", {"mlx_lm"}),
        ("gateway/app.py", {"starlette", "zmq"}),
    ],
)
def test_the_probe_sees_what_is_loaded(module: str, needs: set[str]) -> None:
    assert needs <= loaded_by(module)
