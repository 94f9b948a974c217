"""/docs: files of this gateway alone, under a policy that forbids everything else."""

import re

import pytest

from gateway.document.endpoints import FILES, PAGE
from tests.gateway.document.answering import AnsweringLink
from tests.gateway.served import served

pytestmark = pytest.mark.anyio
OWN = [path.read_text() for path in FILES.values() if path.parent.name == "page"]


def test_its_own_files_have_nothing_inline_and_name_no_other_host() -> None:
    [page] = [path for path in FILES.values() if path.name == PAGE]
    assert re.findall(r"<script(?![^>]*\bsrc=)|<style|\bstyle=|\bon\w+=", page.read_text()) == []
    assert len(OWN) == 2
    assert not any("//" in re.sub(r"//[ \w].*", "", text) for text in OWN)
    assert not any("http" in text for text in OWN)


async def test_every_file_that_it_names_is_served_under_the_policy() -> None:
    async with served(AnsweringLink()) as client:
        page = await client.get("/docs")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        named = re.findall(r'(?:src|href)="(?!data:)([^"]+)"', page.text)
        assert {f"docs/{name}" for name in FILES} - {f"docs/{PAGE}"} < {*named, "openapi.json"}
        for name in named:
            file = await client.get(f"/{name}")
            assert file.status_code == 200
            assert file.headers["content-type"].partition(";")[0] in (
                "text/css",
                "text/javascript",
                "application/json",
            )
        for answer in (page, *[await client.get(f"/docs/{name}") for name in FILES]):
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "frame-ancestors 'none'" in policy
            assert "unsafe" not in policy
            assert "http" not in policy
            assert answer.headers["x-content-type-options"] == "nosniff"


async def test_any_other_file_is_a_404() -> None:
    async with served(AnsweringLink()) as client:
        for name in ("", "LICENSE", "endpoints.py", "..%2fendpoints.py", "vendor/swagger-ui.css"):
            assert (await client.get(f"/docs/{name}")).status_code == 404


async def test_a_browser_that_has_a_file_gets_it_only_once() -> None:
    async with served(AnsweringLink()) as client:
        first = await client.get("/docs/docs.js")
        again = await client.get("/docs/docs.js", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
