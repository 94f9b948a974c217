"""The page for those who cannot see it or use no mouse: axe-core in light, dark and on a phone, and the keyboard."""

import json
from pathlib import Path

import pytest

from broker.wire.failure import Code, Failure
from broker.wire.outputs import PARTIAL, Output
from broker.wire.work import Generate
from tests.page.browser import Browser, card, drive
from tests.page.played import PlayedPool, entry, played
from tests.service import wait_until

pytestmark = [pytest.mark.page, pytest.mark.anyio]


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
async def test_nothing_serious_for_those_who_cannot_see(
    browser: Browser, runtime_dir: Path, axe: str, look: str
) -> None:
    exit_ = {"code": 1, "signal": None, "at": 1.0, "reason": "it crashed", "stderr_tail": ["Traceback"]}
    models = [
        entry("org/ready", last_exit=exit_),
        entry("org/loading", state="loading", stage="weights", fraction=0.5),
        entry("org/failed", state="failed", reason="it crashed", pid=None, last_exit=exit_),
        entry("org/fetched", state="downloading", fraction=0.25, pid=None),
    ]

    async def chat(pool: PlayedPool, request_id: bytes, _work: Generate) -> None:
        await pool.broker.outputs(Output(request_id, PARTIAL, {"text": "Half an answer", "reasoning": "Hm."}))
        await pool.fail(request_id, Failure(Code.WORKER_DIED, "the process died", retryable=True))

    def check(what: str) -> None:
        found = browser.driver.execute_async_script(
            axe + ";const done = arguments[arguments.length - 1];"
            "axe.run(document, {resultTypes: ['violations']}).then((found) => done(found.violations))"
        )
        bad = [
            (one["id"], one["impact"], [node["html"][:200] for node in one["nodes"][:3]])
            for one in found
            if one["impact"] in ("serious", "critical")
        ]
        assert bad == [], f"{what}: {json.dumps(bad, indent=1)}"
        width, window = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width <= window, f"{what} is {width} pixels wide"

    def steps(url: str) -> None:
        if look == "phone":
            browser.size(375, 812)
        browser.scheme("dark" if look == "dark" else "light")
        browser.open(url)
        browser.see(card("org/ready"))
        browser.run("document.querySelector('[data-model=\"org/ready\"]').scrollIntoView()")
        browser.see(card("org/ready", ".uplot"))
        check("models")
        browser.click(card("org/ready", "[data-action=kill]"))
        browser.see("#ask-yes")
        check("the question")
        browser.click("#ask button[value=no]")
        browser.run("location.hash = '#disk'")
        browser.see("#disk-list li")
        check("disk")
        browser.run("location.hash = '#chat/org%2Fready'")
        browser.say("Hi")
        browser.see(".turn .end")
        check("chat")
        browser.run("location.hash = '#log'")
        browser.see("#log-lines")
        check("log")

    async with played(runtime_dir, models) as (url, pool):
        pool.chat = chat
        await drive(steps, url)


async def test_it_is_used_by_the_keyboard_alone(browser: Browser, runtime_dir: Path) -> None:
    def steps(url: str) -> None:
        browser.open(url)
        browser.see(card("org/tiny"))
        reached = browser.run(
            "return [...document.querySelectorAll('a[href], button, input, select, textarea, summary, [tabindex]')]"
            ".filter((node) => node.checkVisibility()).every((node) => node.tabIndex >= 0 || node.id === 'content')"
        )
        assert reached
        browser.run("location.hash = '#disk'")
        browser.run("document.querySelector('.skip').click()")
        wait_until(lambda: browser.run("return document.activeElement.id") == "content", 10, "the content")
        assert browser.run("return location.hash") == "#disk"
        assert browser.text("#view-disk") != ""
        browser.run("location.hash = '#models'")
        # From the kill button: Enter asks, Escape leaves everything as it is and the focus where it was.
        button = browser.see(card("org/tiny", "[data-action=kill]"))
        browser.run("arguments[0].focus()", button)
        button.send_keys("\ue007")  # Enter
        browser.see("#ask-yes")
        assert browser.run("return document.activeElement.textContent") == "Cancel"
        browser.see("#ask button[value=no]").send_keys("\ue00c")  # Escape
        wait_until(lambda: not browser.run("return document.getElementById('ask').open"), 10, "the dialog has gone")
        assert browser.run("return document.activeElement === arguments[0]", button)

    async with played(runtime_dir, [entry("org/tiny")]) as (url, pool):
        await drive(steps, url)
        assert [name for name, _model in pool.commands if name == "Kill"] == []
