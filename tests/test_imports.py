"""Who may import whom. The rules are folders, and docs/architecture.md lists them.

Two kinds of proof. What the files say: every import statement, also inside functions, followed through the modules of
this project. And what really happens: a fresh process imports every module of a place and says what that has loaded.
A new file in a folder is covered without an edit here; so is a new engine folder or a new package.
"""

import ast
import functools
import json
import re
import subprocess
import sys
from collections import defaultdict

import pytest

from tests.service import ROOT

PACKAGES = tuple(sorted(path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name != "tests"))
SERVING = tuple(package for package in PACKAGES if package != "bench")
MODULES = sorted(path.relative_to(ROOT).as_posix() for package in SERVING for path in (ROOT / package).rglob("*.py"))

# Heavy or tricky packages, and the folders or files that may name them. A place is a folder ("a/b/") or a file.
OWNERS = {
    "zmq": ("broker/sockets.py", "worker/service.py", "worker/heartbeat.py", "gateway/link/"),
    "msgpack": ("broker/wire/",),
    "psutil": ("broker/processes/",),
    "mlx": ("worker/", "demo/", "cli/doctor/inside/metal.py"),
    "mlx_lm": ("worker/",),
    "miniaudio": ("worker/audio/", "worker/vision/sounds.py"),
    "mlx_vlm": ("worker/vision/", "worker/embeddings/", "worker/loading/architectures.py"),
    "mlx_audio": ("worker/audio/", "worker/loading/architectures.py", "worker/sound/"),
    "soundfile": ("worker/audio/",),
    "transformers": ("worker/",),
    "PIL": ("worker/vision/",),
    "httpcore2": ("gateway/images/",),
    "httpx2": ("gateway/images/",),
    "huggingface_hub": ("worker/hub/",),
    "starlette": ("gateway/",),
    "uvicorn": ("gateway/http/",),
    "prometheus_client": ("gateway/metrics/",),
    "typer": ("cli/",),
    "rich": ("cli/output.py",),
    "python_multipart": ("gateway/http/form.py",),
    "pythonjsonlogger": ("broker/wire/log_json.py",),
}
# Of these, one file of each place names them.
ONE_FILE_EACH = ("zmq", "psutil")

COMPUTING = {"mlx", "mlx_audio", "mlx_lm", "mlx_vlm", "numpy", "transformers"}
# Place -> what importing its modules must not load, directly or through others. What encloses a place binds it too.
NEVER_LOADS = {
    "broker/": COMPUTING | {"starlette", "uvicorn", "huggingface_hub", "asyncio", "pydantic"},
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
    "broker/wire/": {"zmq", "psutil", "pydantic", "asyncio", "subprocess"},
    "gateway/": COMPUTING | {"psutil", "huggingface_hub"},
    # Megabytes that most gateways never need.
    "gateway/app.py": {"httpcore2", "httpx2"},
    "broker/wire/listening.py": {"http", "email"},
    "gateway/core/": {"starlette", "uvicorn", "zmq", "asyncio"},
    # rich is imported by whoever draws, and only then: `ps` into a pipe must not wait for it.
    "cli/": COMPUTING
    | {"pydantic", "zmq", "msgpack", "psutil", "starlette", "uvicorn", "orjson", "httpx2", "rich", "asyncio"},
    "cli/doctor/inside/": {"mlx_lm", "mlx_vlm", "transformers", "starlette", "uvicorn", "typer", "rich"},
    "worker/service.py": COMPUTING | {"psutil", "pydantic", "asyncio"},
    "worker/engine.py": COMPUTING | {"zmq", "psutil", "pydantic"},
    "worker/options.py": COMPUTING | {"zmq", "msgpack"},
    "worker/echo/": COMPUTING | {"zmq", "pydantic"},
    "worker/chat/": COMPUTING | {"zmq", "pydantic"},
    "worker/process/": COMPUTING | {"zmq", "msgpack"},
    "worker/__main__.py": COMPUTING | {"zmq", "msgpack", "asyncio"},
    "worker/text/": {"mlx_vlm", "mlx_audio", "soundfile", "miniaudio", "zmq", "rich", "jsonschema"},
}

# Programs that a process of their room starts and never imports: they may load and import what that one must not.
STARTED = ("cli/doctor/inside/",)

_CORE = {"pydantic", "pydantic_core", "orjson", "msgpack"}
# Pure places, and the packages besides a pure standard library that they may reach. Clocks, files, sockets, logs and
# randomness are arguments. A file whose header claims to be pure must be in one of them.
PURE = {
    "broker/logs/ring.py": set[str](),
    "broker/policy/": set[str](),
    "broker/processes/lines.py": set[str](),
    "worker/audio/sentences.py": set[str](),
    "broker/wire/log_text.py": set[str](),
    "gateway/admin/dialect.py": _CORE,
    "gateway/core/": _CORE,
    **{
        f"gateway/openai/{name}.py": _CORE
        for name in (
            "calls",
            "content",
            "messages",
            "dialect",
            "inputs",
            "lists",
            "parts",
            "requests",
            "shapes",
            "tools",
        )
    },
    **{f"gateway/openai/audio/{name}.py": _CORE for name in ("formats", "languages", "requests", "streams")},
    **{
        f"gateway/responses/{name}.py": _CORE
        for name in ("dialect", "items", "objects", "parts", "requests", "sealed", "shapes", "tools", "turns")
    },
    **{
        f"gateway/anthropic/{name}.py": _CORE
        for name in ("blocks", "conversation", "dialect", "requests", "shapes", "tools")
    },
    **{
        f"gateway/ollama/{name}.py": _CORE
        for name in ("dialect", "messages", "options", "pulls", "requests", "shapes", "stay")
    },
    **{
        f"cli/doctor/{name}.py": set[str]()
        for name in ("facts", "live_verdicts", "outputs", "privacy", "report", "verdicts")
    },
    "cli/speed/streams.py": set[str](),
    "cli/text.py": set[str](),
    "cli/agents.py": {"shlex"},
    "worker/cache/prefix_index.py": set[str](),
    "worker/cache/worthwhile.py": set[str](),
    "worker/embeddings/parts.py": set[str](),
    "worker/memory/cost.py": set[str](),
    "worker/memory/plan.py": set[str](),
    "worker/generation/choice.py": set[str](),
    "worker/generation/pace.py": set[str](),
    "worker/generation/constraints/bounds.py": {"urllib"},
    "worker/generation/calls/shapes.py": set[str](),
    "worker/generation/calls/typed.py": {"ast"},
    "worker/generation/constraints/call_grammars.py": {"ast", "fractions", "urllib"},
    "worker/generation/constraints/calls.py": {"fractions", "urllib"},
    "worker/generation/constraints/lark.py": set[str](),
    "worker/generation/constraints/lark_pattern.py": set[str](),
    "worker/generation/constraints/keywords.py": {"fractions", "urllib"},
}
PURE_STDLIB = {
    "abc", "array", "base64", "binascii", "bisect", "collections", "copy", "dataclasses", "enum", "functools",
    "hashlib", "heapq", "itertools", "json", "math", "operator", "re", "string", "types", "typing", "unicodedata",
}  # fmt: skip
IMPURE_CALLS = {"open", "print", "input", "eval", "exec", "compile", "__import__", "breakpoint"}

# Rooms of one floor never reach each other.
ENGINES = tuple(sorted(f"{path.parent.relative_to(ROOT).as_posix()}/" for path in ROOT.glob("worker/*/engine.py")))
DIALECTS = tuple(
    sorted(
        f"{path.parent.relative_to(ROOT).as_posix()}/"
        for path in ROOT.glob("gateway/*/dialect.py")
        if (path.parent / "endpoints.py").exists()
    )
)

# Class names that stand in two files, and why.
DOUBLES = {
    "Row": "of a text batch, and of a batch of embeddings",
}


@functools.cache
def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / module).read_text())


@functools.cache
def imports_of(module: str) -> frozenset[str]:
    """Every module that the file names in an import, at any depth: `from a import b` is a.b if that is a module."""
    names: set[str] = set()
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            package = node.module or ""
            submodules = {f"{package}.{alias.name}" for alias in node.names} & FILES.keys()
            names |= submodules or {package}
    return frozenset(names)


@functools.cache
def reached_by(module: str) -> dict[str, str]:
    """Every module that this file reaches through imports, lazy ones too -> the file of ours that names it."""
    reached: dict[str, str] = {}
    files, seen = [module], {module}
    while files:
        file = files.pop()
        for name in imports_of(file):
            reached.setdefault(name, file)
            if (own := FILES.get(name)) is not None and own not in seen:
                seen.add(own)
                files.append(own)
    return reached


_PROBE = """
import importlib, json, sys
seen, loaded = set(sys.modules), {}
for name in sys.argv[1:]:
    importlib.import_module(name)
    loaded[name] = sorted({module.partition(".")[0] for module in set(sys.modules) - seen})
    seen |= set(sys.modules)
print(json.dumps(loaded))
"""


@functools.cache
def loaded_in(place: str) -> dict[str, list[str]]:
    """A fresh process imports the modules of this place one after the other: module -> the top-level packages of what
    it was the first to load. Modules that a closer place covers are left to that one."""
    modules = [_dotted(m) for m in MODULES if not m.endswith("__init__.py") and _closest(m) == place]
    command = [sys.executable, "-c", _PROBE, *modules]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    loaded: dict[str, list[str]] = json.loads(result.stdout)
    return loaded


def _dotted(module: str) -> str:
    return module.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


FILES = {_dotted(module): module for module in MODULES}


def _own(names: frozenset[str]) -> set[str]:
    return {name for name in names if name.partition(".")[0] in (*PACKAGES, "tests")}


def _in(module: str, place: str) -> bool:
    return module == place or (place.endswith("/") and module.startswith(place))


def _closest(module: str) -> str | None:
    return max((place for place in NEVER_LOADS if _in(module, place)), key=len, default=None)


def _modules_in(*places: str) -> list[str]:
    return [module for module in MODULES if any(_in(module, place) for place in places)]


def test_the_rules_name_places_that_exist() -> None:
    for place in (*NEVER_LOADS, *PURE, *ENGINES, *DIALECTS, *(place for places in OWNERS.values() for place in places)):
        assert _modules_in(place), f"there is no {place}"
    assert len(ENGINES) > 1
    assert len(DIALECTS) > 1


@pytest.mark.parametrize("module", MODULES)
def test_a_package_is_named_only_where_it_belongs(module: str) -> None:
    top = {name.partition(".")[0] for name in imports_of(module)}
    for package in top & OWNERS.keys():
        assert any(_in(module, place) for place in OWNERS[package]), (
            f"{module} imports {package}; only {OWNERS[package]} may"
        )
    assert not top & {"tests", "bench"}, f"{module} imports {sorted(top & {'tests', 'bench'})}"


@pytest.mark.parametrize(("package", "place"), [(p, place) for p, places in OWNERS.items() for place in places])
def test_a_place_that_may_name_a_package_does(package: str, place: str) -> None:
    naming = [m for m in _modules_in(place) if package in {name.partition(".")[0] for name in imports_of(m)}]
    assert naming, f"nothing in {place} imports {package}: the row can go"
    if package in ONE_FILE_EACH:
        assert len(naming) == 1, f"{package} belongs into one file of {place}, not into {naming}"


@pytest.mark.parametrize("module", MODULES)
def test_the_processes_share_only_the_wire(module: str) -> None:
    package = module.partition("/")[0]
    foreign = {name for name in _own(imports_of(module)) if name.partition(".")[0] != package}
    shared = "broker." if module.startswith(STARTED) else "broker.wire."
    allowed = {name for name in foreign if name.startswith(shared)} if package != "broker" else set()
    assert foreign <= allowed, f"{module} imports {sorted(foreign - allowed)}; only broker/wire is shared"


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith(STARTED)])
def test_what_is_started_is_not_imported(module: str) -> None:
    started = {_dotted(other) for other in _modules_in(*STARTED)}
    assert not imports_of(module) & started, f"{module} imports what it may only start"


@pytest.mark.parametrize("module", _modules_in("broker/wire/"))
def test_the_wire_imports_nothing_else_of_the_project(module: str) -> None:
    own = _own(imports_of(module))
    assert all(name.startswith("broker.wire.") for name in own), f"{module} imports {sorted(own)}"


@pytest.mark.parametrize(("module", "place"), [(module, place) for place in PURE for module in _modules_in(place)])
def test_a_pure_place_reaches_no_clock_file_or_socket(module: str, place: str) -> None:
    for name, file in reached_by(module).items():
        top = name.partition(".")[0]
        if top in PACKAGES:
            is_pure = name.startswith("broker.wire.") or any(_in(FILES[name], pure) for pure in PURE)
            assert is_pure, f"{module} reaches {name} through {file}"
        else:
            assert top in PURE_STDLIB | PURE[place], f"{module} reaches {name} through {file}, which is not pure"
    called = {n.func.id for n in ast.walk(tree_of(module)) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)}
    assert not called & IMPURE_CALLS, f"{module} calls {sorted(called & IMPURE_CALLS)}"


def _claims() -> list[str]:
    """Modules whose header says pure."""
    return [
        module for module in MODULES if re.search(r"\bpure\b", ast.get_docstring(tree_of(module)) or "", re.IGNORECASE)
    ]


@pytest.mark.parametrize("module", _claims())
def test_a_file_that_claims_to_be_pure_is_in_a_pure_place(module: str) -> None:
    places = [place for place in PURE if _in(module, place)]
    assert len(places) == 1, f"the header of {module} says pure; PURE lists it in {places}"


@pytest.mark.parametrize(("room", "floor"), [(room, floor) for floor in (ENGINES, DIALECTS) for room in floor])
def test_rooms_of_one_floor_do_not_reach_each_other(room: str, floor: tuple[str, ...]) -> None:
    others = {_dotted(module): other for other in floor if other != room for module in _modules_in(other)}
    for module in _modules_in(room):
        for name, file in reached_by(module).items():
            assert name not in others, f"{module} reaches {name} through {file}"


@pytest.mark.parametrize("module", _modules_in("gateway/core/", "gateway/http/", "gateway/images/", "gateway/link/"))
def test_what_dialects_share_reaches_none_of_them(module: str) -> None:
    dialects = {_dotted(other) for other in _modules_in(*DIALECTS)}
    for name, file in reached_by(module).items():
        assert name not in dialects, f"{module} reaches {name} through {file}"


def test_the_packages_are_empty_so_that_importing_one_module_stays_cheap() -> None:
    for module in MODULES:
        if module.endswith("__init__.py"):
            assert (ROOT / module).read_text() == "", f"{module} is not empty"


@pytest.mark.parametrize("place", NEVER_LOADS)
def test_what_a_place_promises_not_to_load(place: str) -> None:
    outers = [outer for outer in NEVER_LOADS if _in(place, outer) and (place == outer or place not in STARTED)]
    forbidden = set[str]().union(*(NEVER_LOADS[outer] for outer in outers))
    assert loaded_in(place), f"{place} has no module that only this row covers"
    for module, loaded in loaded_in(place).items():
        wrong = sorted(forbidden.intersection(loaded))
        assert not wrong, f"importing {module} loads {wrong}, which {place} promises not to"


@pytest.mark.parametrize(
    ("place", "needs"),
    [
        ("broker/", {"zmq", "psutil", "msgpack"}),
        ("worker/service.py", {"zmq", "msgpack"}),
        ("worker/text/", {"mlx_lm"}),
        ("gateway/", {"starlette", "zmq"}),
    ],
)
def test_the_probe_sees_what_is_loaded(place: str, needs: set[str]) -> None:
    assert needs <= set[str]().union(*loaded_in(place).values())


def test_no_class_name_stands_in_two_files() -> None:
    files: defaultdict[str, set[str]] = defaultdict(set)
    for module in MODULES:
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.ClassDef):
                files[node.name].add(module)
    doubles = {name: sorted(places) for name, places in files.items() if len(places) > 1}
    new = {name: places for name, places in doubles.items() if name not in DOUBLES}
    assert not new, f"one name, one class: {new}"
    assert not DOUBLES.keys() - doubles.keys(), f"no double any more: {sorted(DOUBLES.keys() - doubles.keys())}"
