import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.page.browser import Browser, connected_to


@pytest.fixture
def runtime_dir() -> Iterator[Path]:
    """Short, as socket paths must be."""
    directory = Path(tempfile.mkdtemp(prefix="mlxb-"))
    yield directory
    shutil.rmtree(directory)


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """One browser for all tests. At its end its own log says that it has spoken to this machine alone."""
    directory = Path(tempfile.mkdtemp(prefix="mlxb-page-"))
    browser = Browser(directory)
    try:
        yield browser
    finally:
        browser.quit()
        addresses = connected_to(directory / "net.json")
        shutil.rmtree(directory, ignore_errors=True)
    assert addresses == {"127.0.0.1"}


@pytest.fixture
def browser(chromium: Browser) -> Iterator[Browser]:
    """A tab of its own, without what another test has kept."""
    with chromium.tab():
        yield chromium
        chromium.assert_clean()


@pytest.fixture(scope="session")
def axe() -> str:
    """axe-core, as a script."""
    path = Path(__file__).parent / "node" / "node_modules" / "axe-core" / "axe.min.js"
    assert path.exists(), f"{path} is missing: run `make test-page`"
    version = json.loads((path.parent / "package.json").read_text())["version"]
    assert version
    return path.read_text()
