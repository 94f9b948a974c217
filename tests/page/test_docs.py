"""/docs in a browser: Swagger UI shows every operation, and sends a request with the key that a reader types in."""

import asyncio

import pytest
from pydantic import SecretStr

from gateway.app import ENDPOINTS
from gateway.settings import Settings
from tests.gateway.document.answering import AnsweringLink
from tests.gateway.served import served
from tests.page.browser import Browser
from tests.page.proxy import proxied
from tests.service import wait_until

pytestmark = [pytest.mark.page, pytest.mark.anyio]
OPERATION = "#operations-OpenAI-get_models"


@pytest.mark.parametrize("prefix", ["", "/models"])
async def test_the_document_is_shown_and_tried(browser: Browser, prefix: str) -> None:
    operations = {(row.method, row.path) for row in ENDPOINTS}

    def steps(url: str) -> None:
        browser.driver.get(f"{url}/docs")
        browser.see(".opblock")
        shown = {block.get_attribute("id") for block in browser.all(".opblock")}
        # One with two dialects stands in both.
        wait_until(lambda: len(browser.all(".opblock")) >= len(operations), 20, f"{operations} in {shown}")
        browser.click(".auth-wrapper .authorize")
        browser.see(".auth-container input").send_keys("a-key")
        browser.click(".auth-btn-wrapper .authorize")
        browser.click(".auth-btn-wrapper .btn-done")
        browser.click(f"{OPERATION} .opblock-summary-control")
        browser.click(f"{OPERATION} .try-out__btn")
        browser.click(f"{OPERATION} .execute")
        browser.wait_text(f"{OPERATION} .live-responses-table", "org/rich")
        assert browser.requests("://") == browser.requests(url)

    settings = Settings(port=0, default_model="org/rich", api_key=SecretStr("a-key"))
    async with (
        served(AnsweringLink(), settings) as client,
        proxied(str(client.base_url).rstrip("/"), prefix) as url,
    ):
        await asyncio.to_thread(steps, url)
