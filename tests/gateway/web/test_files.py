"""What the page's files promise, read from the files: nothing inline, no other host, only routes that exist."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.routing import Match, Route

from gateway.app import ENDPOINTS
from gateway.web.endpoints import FILES, PAGE
from tests.service import ROOT

WEB = ROOT / "gateway" / "web"
STATIC = WEB / "static"
SCRIPTS = sorted(STATIC.glob("*.js"))
VOID = {"meta", "link", "input", "img", "br", "hr"}


class Reader(HTMLParser):
    """Every element with its attributes and text; complains about what is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[tuple[str, str]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self._open and data.strip():
            self.texts.append((self._open[-1], data))


@pytest.fixture(scope="module")
def html() -> Reader:
    return Reader(FILES[PAGE].read_text())


def test_the_list_has_every_file_and_no_other() -> None:
    there = {path for folder in ("static", "vendor") for path in (WEB / folder).iterdir() if path.suffix != ".LICENSE"}
    assert set(FILES.values()) == there
    assert all(name == f"vendor/{path.name}" or path.parent == STATIC for name, path in FILES.items())


def test_the_page_has_nothing_inline(html: Reader) -> None:
    for tag, attributes in html.elements:
        assert not {name for name in attributes if name.startswith("on") or name == "style"}, (tag, attributes)
        assert tag != "style"
    assert [text for tag, text in html.texts if tag in ("script", "style")] == []
    scripts = [attributes for tag, attributes in html.elements if tag == "script"]
    assert scripts
    assert all(script.get("src") for script in scripts)


def test_the_page_names_only_its_own_files(html: Reader) -> None:
    named = {
        value.removeprefix("ui/")
        for _tag, attributes in html.elements
        for name, value in attributes.items()
        if name in ("src", "href") and value and not value.startswith("#")
    }
    assert len(named) > 5
    assert named <= set(FILES)


def test_every_script_is_reached_from_the_page(html: Reader) -> None:
    imports = {
        path.name: re.findall(r'^import [^"]*"\./([\w.]+)";', path.read_text(), flags=re.MULTILINE) for path in SCRIPTS
    }
    reached, left = set[str](), ["app.js"]
    while left:
        name = left.pop()
        if name not in reached:
            reached.add(name)
            left += imports[name]
    assert reached == set(imports)


def test_ids_are_unique_and_those_that_are_meant_exist(html: Reader) -> None:
    ids = [attributes["id"] for _tag, attributes in html.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    meant = {
        name
        for _tag, attributes in html.elements
        for key in ("for", "aria-labelledby")
        for name in (attributes.get(key) or "").split()
    }
    for path in SCRIPTS:
        meant |= set(re.findall(r'byId\("([\w-]+)"\)', path.read_text()))
    assert len(meant) > 30
    assert meant - set(ids) == set()


@pytest.mark.parametrize(
    "path", [path for path in STATIC.iterdir() if path.suffix != ".svg"], ids=lambda path: path.name
)
def test_no_file_names_another_host_or_parses_markup(path: Path) -> None:
    text = path.read_text()
    assert re.findall(r"https?://(?!localhost\b)|[\"'(]//\w|@import|\burl\(", text) == []
    markup = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser|srcdoc|javascript:"
    )
    assert re.findall(markup, text) == []
    assert re.findall(r"setAttribute\(\"style|localStorage|document\.cookie", text) == []


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_says_what_it_does_and_is_small(path: Path) -> None:
    text = path.read_text()
    assert text.startswith("/**")
    assert len(text.splitlines()) <= 250


def test_every_route_that_is_asked_for_exists() -> None:
    text = (STATIC / "api.js").read_text()
    sends = re.findall(r'this\.send\("(\w+)", (["`])(.+?)\2', text)
    asked = [(method, path) for method, _quote, path in sends]
    asked += [("GET", path) for _quote, path in re.findall(r'this\.get\((["`])(.+?)\1', text)]
    assert len(asked) >= 12
    known = [Route(row.path, lambda _: None, methods=[row.method]) for row in ENDPOINTS]
    for method, path in asked:
        plain = "/" + re.sub(r"\$\{[^}]*\}+", "org/name", path).partition("?")[0]
        scope = {"type": "http", "method": method, "path": plain, "headers": []}
        assert any(route.matches(scope)[0] is Match.FULL for route in known), f"{method} {plain}"
    for path in SCRIPTS:
        if path.name != "api.js":
            assert re.findall(r"\bfetch\(|XMLHttpRequest|EventSource|WebSocket|sendBeacon", path.read_text()) == []


def test_the_walk_over_markup_sees_what_is_wrong() -> None:
    with pytest.raises(AssertionError):
        Reader("<p><b></p></b>")
    with pytest.raises(AssertionError):
        Reader("<p>")
