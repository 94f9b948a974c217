"""The types in the comments of the page's modules, checked by TypeScript's compiler."""

import subprocess

import pytest

from tests.service import ROOT

pytestmark = pytest.mark.page


def test_the_types_fit() -> None:
    compiler = ROOT / "tests" / "page" / "node" / "node_modules" / ".bin" / "tsc"
    assert compiler.exists(), f"{compiler} is missing: run `make test-page`"
    checks = "--noEmit --allowJs --checkJs --strict --noUnusedLocals"
    language = "--target es2022 --module es2022 --moduleResolution bundler --lib es2023,dom,dom.iterable"
    page = ROOT / "gateway" / "web" / "static" / "app.js"
    command = [str(compiler), *checks.split(), *language.split(), str(page)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100, check=False)
    assert done.stdout == ""
    assert done.returncode == 0
