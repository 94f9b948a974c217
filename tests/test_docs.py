"""What a user can set, call or meet is documented where they look for it, and what the pages name exists.

Names count only inside code marks.
"""

import ast
import importlib
import re
import tomllib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, get_args

import pytest
import typer

from broker.policy.actions import Action
from broker.policy.events import Event
from broker.settings import BrokerSettings, ModelSettings
from broker.wire.codec import COMMANDS
from broker.wire.failure import Code, Failure, FailureError
from broker.wire.frames import VERSION
from broker.wire.kinds import KINDS
from broker.wire.outputs import FINAL, PARTIAL
from broker.wire.packing import pack
from broker.wire.settings_file import PREFIX
from broker.wire.states import State
from broker.wire.to_workers import Assign
from broker.wire.work import Embed, Generate, Rerank
from cli.errors import ExitCode
from cli.main import COMMANDS as CLI_COMMANDS
from gateway.admin.dialect import ADMIN
from gateway.app import ENDPOINTS
from gateway.core.failure import STATUS, error_object
from gateway.openai import requests as gateway_openai
from gateway.responses import requests as gateway_responses
from gateway.settings import Settings as GatewaySettings
from tests.service import ROOT
from worker.engine import Engine, load_engine

PAGES = sorted(page.relative_to(ROOT).as_posix() for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# Of both processes. `models` and `aliases` are tables of the settings file alone.
_TABLES = ("models", "aliases")
_FIELDS: dict[str, Any] = {**{one.name: one for one in fields(BrokerSettings)}, **GatewaySettings.model_fields}
SETTINGS = {name: field for name, field in _FIELDS.items() if name not in _TABLES}
PACKAGES = tuple(sorted(p.parent.name for p in ROOT.glob("*/__init__.py") if p.parent.name not in ("bench", "tests")))
_FENCED = re.compile(r"^```.*?^```", flags=re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\]\(([^)\s]+)\)")


def document(name: str) -> str:
    path = ROOT / name
    assert path.exists(), f"{name} is missing"
    return path.read_text()


def spans_in(text: str) -> list[str]:
    """What stands between inline code marks; fenced blocks are left out."""
    return re.findall(r"`([^`\n]+)`", _FENCED.sub("", text))


def code_in(text: str) -> str:
    """Everything between code marks: fenced blocks and inline spans, one a line."""
    return "\n".join(_FENCED.findall(text) + spans_in(text))


def missing(names: set[str], text: str) -> list[str]:
    """Those of `names` that are no word of `text`."""
    return sorted(name for name in names if not re.search(rf"(?<![\w.]){re.escape(name)}(?!\w)", text))


def anchors_of(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub and most others make them."""
    anchors: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", _FENCED.sub("", text), flags=re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        anchor = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        anchors.add(next(a for n in range(100) if (a := f"{anchor}-{n}" if n else anchor) not in anchors))
    return anchors


def _any_parameter(path: str) -> str:
    """`{model_id:path}`, `{model_id}` and `{id}` are the same to a reader."""
    return re.sub(r"\{[^}\n]*\}", "{}", path)


def test_every_setting_is_documented() -> None:
    code = code_in(document("docs/settings.md"))
    assert missing({f"{PREFIX}{name.upper()}" for name in SETTINGS}, code) == []
    assert missing({one.name for one in fields(ModelSettings)}, code) == []
    assert "[models." in code


def test_the_documented_defaults_are_those_of_the_code() -> None:
    told = dict(re.findall(rf"^\| `{PREFIX}(\w+)` \| ([^|]+) \|", document("docs/settings.md"), flags=re.MULTILINE))
    plain = {name: field.default for name, field in SETTINGS.items() if field.default_factory in (None, MISSING)}
    assert len(plain) > 25
    assert {name: told[name.upper()] for name in plain} == {name: _as_told(plain[name]) for name in plain}


def _as_told(default: bool | float | str | None) -> str:
    if default is None:
        return "none"
    return f"{default:g}" if type(default) in (int, float) else str(default).lower()


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_setting_that_is_gone(page: str) -> None:
    known = {name.upper() for name in SETTINGS} | {"CONFIG", "URL"}
    named = set(re.findall(rf"\b{PREFIX}([A-Z_]+[A-Z])\b", document(page)))
    assert named - known == set()


def test_every_option_of_an_engine_is_documented() -> None:
    options = {
        item.target.id
        for path in (ROOT / "worker").rglob("*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.ClassDef) and node.name.endswith("Options")
        for item in node.body
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name)
    }
    assert len(options) > 10
    assert missing(options, code_in(document("docs/models.md"))) == []


def test_every_type_of_model_is_documented() -> None:
    assert missing(set(KINDS), code_in(document("docs/models.md"))) == []


def test_every_field_that_is_refused_is_documented() -> None:
    refused = {*gateway_openai._NOT_YET_CHAT, *gateway_openai._NOT_YET_COMPLETION}
    assert len(refused) > 10
    assert missing(refused, code_in(document("docs/api.md").partition("\n## What is refused\n")[2])) == []


def test_every_field_that_responses_refuse_is_documented() -> None:
    refused = set(gateway_responses._REFUSED)
    assert len(refused) > 4
    assert missing(refused, code_in(document("docs/responses.md").partition("\n## Fields\n")[2])) == []


def test_every_route_is_documented() -> None:
    for endpoint in ENDPOINTS:
        page = document("docs/admin.md" if endpoint.dialect is ADMIN else "docs/api.md")
        page = re.sub(r"https?://[^/\s`]+", " ", page)
        assert missing({_any_parameter(endpoint.path)}, _any_parameter(page)) == []


def test_every_error_code_and_its_status_is_documented() -> None:
    rows = re.findall(r"^\| `(\w+)` \| (\d+) \| `(\w+)` \|", document("docs/errors.md"), flags=re.MULTILINE)
    assert {code for code, _, _ in rows} == set(Code)
    for code, status, kind in rows:
        assert int(status) == STATUS[Code(code)], f"docs/errors.md, {code}"
        assert f"'type': '{kind}'" in str(error_object(Failure(Code(code), ""))), f"docs/errors.md, {code}"


@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_every_command_and_its_fields_are_in_the_protocol(command: bytes) -> None:
    body: Any = COMMANDS[command]
    code = code_in(document("docs/protocol.md"))
    assert missing({command.decode(), *(f.name for f in fields(body))}, code) == []


def test_the_payload_and_the_failure_are_in_the_protocol() -> None:
    names = {f.name for body in (Generate, Embed, Rerank, Failure) for f in fields(body)}
    names |= {"PARTIAL", "FINAL", "ERROR", VERSION.decode()}
    assert missing(names, code_in(document("docs/protocol.md"))) == []


def test_every_event_action_and_state_is_in_the_pool() -> None:
    names = {c.__name__ for c in (*get_args(Event), *get_args(Action))}
    assert len(names) > 30
    code = code_in(document("docs/pool.md"))
    assert missing(names | set(State), code) == []
    assert missing(set(State), code_in(document("docs/admin.md"))) == []


def test_the_architecture_has_one_row_for_every_module_and_no_other() -> None:
    modules = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if path.name != "__init__.py"
    }
    rows = re.findall(r"^\| (?:\*\*)?`([\w./]+)`(?:\*\*)? \|", document("docs/architecture.md"), flags=re.MULTILINE)
    named = [row for row in rows if row.endswith(".py")]
    assert sorted(modules - {*named}) == [], "docs/architecture.md has no row for these"
    assert sorted({*named} - modules) == [], "docs/architecture.md has rows for these, which do not exist"
    assert len(named) == len(modules), "docs/architecture.md has a row twice"


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_path_that_a_page_names_exists(page: str) -> None:
    """A changelog tells of files that are gone; a bench makes bench/results/."""
    path = re.compile(rf"(?<![\w./-])(?:{'|'.join((*PACKAGES, 'bench', 'tests', 'docs'))})/[\w./-]*")
    named = {name for span in spans_in(document(page)) for name in path.findall(span)} - {"bench/results/"}
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", [page for page in PAGES if page != "CHANGELOG.md"])
def test_every_engine_that_a_page_names_exists(page: str) -> None:
    for module, name in re.findall(r"\b((?:worker|tests)(?:\.\w+)+):(\w+)", code_in(document(page))):
        source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
        assert re.search(rf"^class {name}\b", source, flags=re.MULTILINE), f"{page} names {module}:{name}"


def test_every_library_that_is_needed_has_its_row() -> None:
    dependencies = tomllib.loads(document("pyproject.toml"))["project"]["dependencies"]
    needed = {re.split(r"[\[>=;]", dependency)[0] for dependency in dependencies}
    _, _, table = document("docs/architecture.md").partition("## Libraries")
    told = [
        name for row in re.findall(r"^\| ([a-z][\w, -]+) \|", table, flags=re.MULTILINE) for name in row.split(", ")
    ]
    assert sorted(told) == sorted({*needed, "library"})


def test_every_command_of_make_is_in_contributing() -> None:
    [targets] = re.findall(r"^\.PHONY: (.+)$", document("Makefile"), flags=re.MULTILINE)
    assert missing({f"make {target}" for target in targets.split()}, code_in(document("CONTRIBUTING.md"))) == []


def test_every_command_its_options_and_its_exit_codes_are_documented() -> None:
    page = document("docs/cli.md")
    code = code_in(page)
    for name in CLI_COMMANDS:
        function = importlib.import_module(f"cli.commands.{name}").command
        app = typer.Typer(add_completion=False)
        app.command(name)(function)
        params = typer.main.get_command(app).params
        options = {
            opt for param in params if not getattr(param, "hidden", False) for opt in param.opts if opt[:2] == "--"
        }
        assert missing({name} | options, code) == [], f"docs/cli.md lacks these of `{name}`"
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", page, flags=re.MULTILINE)}
    assert told == set(ExitCode)


def test_every_page_is_on_the_map() -> None:
    linked = {link.partition("#")[0] for link in _LINK.findall(document("docs/index.md"))}
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")} - {"index.md"}
    assert sorted(pages - linked) == [], "docs/index.md has no row for these"


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page: str) -> None:
    for link in _LINK.findall(_FENCED.sub("", document(page))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (ROOT / page).parent / name if name else ROOT / page
        assert target.exists(), f"{page} links to {link}"
        if anchor:
            assert anchor in anchors_of(target.read_text()), f"{page} links to {link}, which has no such heading"


def test_the_walk_over_links_sees_them() -> None:
    assert anchors_of("# The `end` of a_stream — really\n## A\n## A") == {"the-end-of-a_stream--really", "a", "a-1"}
    assert len(_LINK.findall(document("docs/index.md"))) > 10


def test_the_engine_that_docs_extending_shows_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = document("docs/extending.md")
    [example] = re.findall(r"^```python\n(# reversing\.py\n.*?)^```", page, flags=re.MULTILINE | re.DOTALL)
    (tmp_path / "reversing.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    assign = Assign("example/reversing", "", "echo", engine="reversing:ReversingEngine")
    engine = load_engine(assign, lambda _stage, _fraction: None)
    assert [name for name in vars(Engine) if name[0] != "_" and not hasattr(engine, name)] == []
    engine.add(b"1", pack(Generate(prompt="abc", stream=True)))
    outputs = []
    while engine.has_work:
        outputs += engine.step()
    assert [output.kind for output in outputs] == [PARTIAL, PARTIAL, FINAL]
    assert "".join(output.body["text"] for output in outputs) == "cba"
    engine.add(b"2", pack(Generate(prompt="abc")))
    whole = [output for _ in range(3) for output in engine.step()]
    assert [(output.kind, output.body["text"]) for output in whole] == [(FINAL, "cba")]
    with pytest.raises(FailureError):
        engine.add(b"3", pack(Generate(prompt="")))
