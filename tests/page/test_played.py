"""The page in a browser, before a played broker: fifty models, hostile names, keys, images, sleep."""

import asyncio
import base64
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from broker.wire.failure import Code, Failure
from broker.wire.outputs import FINAL, PARTIAL, Output
from broker.wire.work import Generate
from tests.gateway.played_broker import ending
from tests.page.browser import Browser, card, drive
from tests.page.played import GIB, PlayedPool, entry, listing, played
from tests.page.proxy import proxied
from tests.service import wait_until

pytestmark = [pytest.mark.page, pytest.mark.anyio]

MARKUP = "<img src=x onerror=alert(1)><b>bold</b>"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


async def test_fifty_models(browser: Browser, runtime_dir: Path) -> None:
    models = [entry(f"org/model-{number}", footprint_bytes=GIB // 2) for number in range(50)]

    def steps(url: str) -> None:
        browser.open(url)
        wait_until(lambda: len(browser.all(".card")) == 50, 20, "50 cards")
        names = [node.text for node in browser.all(".card h2")]
        assert names == [f"org/model-{number}" for number in range(50)]
        assert len(browser.all("#memory-bar .part.model")) == 50
        width, window = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
        assert width <= window
        # Only what is in sight is drawn, and what comes into sight is drawn then.
        assert 0 < len(browser.all(".uplot")) < 150
        browser.run("document.querySelector('.card:last-child').scrollIntoView()")
        wait_until(lambda: browser.all(".card:last-child .uplot"), 10, "the last card's charts")
        browser.run("location.hash = '#disk'")
        wait_until(lambda: len(browser.all("#disk-list > li")) == 50, 20, "50 rows")
        browser.see("#disk-find").send_keys("model-4")
        wait_until(lambda: len(browser.all("#disk-list > li")) == 11, 20, "the 11 rows that are meant")

    async with played(runtime_dir, models) as (url, _pool):
        await drive(steps, url)


async def test_markup_is_text_wherever_it_comes_from(browser: Browser, runtime_dir: Path) -> None:
    exit_ = {"code": None, "signal": MARKUP, "at": 1.0, "reason": MARKUP, "stderr_tail": [MARKUP]}
    models = [entry(MARKUP, reason=MARKUP, stage=MARKUP, last_exit=exit_)]

    async def chat(pool: PlayedPool, request_id: bytes, _work: Generate) -> None:
        if len(pool.asked) == 1:
            await pool.broker.outputs(Output(request_id, PARTIAL, {"text": MARKUP, "reasoning": MARKUP}))
            await pool.broker.finish(request_id)
        else:
            await pool.fail(request_id, Failure(Code.WORKER_DIED, MARKUP, retryable=True))

    def steps(url: str) -> None:
        browser.open(url)
        assert browser.see(".card h2").text == MARKUP
        assert browser.text(".card .exit pre") or browser.run("document.querySelector('.exit').open = true") is None
        browser.wait_text(".card .exit pre", MARKUP)
        assert MARKUP in browser.text(".card > .line")
        assert MARKUP in browser.text("#memory-legend")
        browser.click(".card [data-action=chat]")
        browser.say(MARKUP)
        browser.wait_text(".turn.assistant > .text", MARKUP)
        assert browser.text(".turn.user .text") == MARKUP
        browser.click(".reasoning summary")
        assert browser.text(".reasoning .text") == MARKUP
        browser.see("#chat-send")
        browser.say("Again")
        browser.wait_text(".turn.assistant:last-child .end", MARKUP)
        browser.run("location.hash = `#log/${encodeURIComponent(arguments[0])}`", MARKUP)
        browser.wait_text("#log-lines", MARKUP)
        assert "␛[2J" in browser.text("#log-lines")
        browser.run("location.hash = '#disk'")
        browser.wait_text("#disk-list .name", MARKUP)
        assert browser.text("#disk-broken").count(MARKUP) == 3
        # Nothing of it has become an element, and nothing has run.
        assert browser.all("main img:not([src^='data:']), main b") == []
        assert browser.run("return document.querySelectorAll('[onerror]').length") == 0

    async with played(runtime_dir, models) as (url, pool):
        pool.chat = chat
        pool.broken = [{"model_id": MARKUP, "path": f"/models/{MARKUP}", "reason": MARKUP}]
        pool.lines = [MARKUP, "\x1b[2J\x1b]0;title\x07"]
        await drive(steps, url)


async def test_an_image_goes_along_and_reasoning_is_folded(browser: Browser, runtime_dir: Path) -> None:
    model = "org/sees"
    picture = runtime_dir / "dot.png"
    picture.write_bytes(PNG)

    async def chat(pool: PlayedPool, request_id: bytes, _work: Generate) -> None:
        await pool.broker.outputs(
            Output(request_id, PARTIAL, {"text": "", "reasoning": "Let me look."}),
            Output(request_id, PARTIAL, {"text": "A dot."}),
        )
        await pool.broker.outputs(Output(request_id, FINAL, ending("")))

    def steps(url: str) -> None:
        browser.open(url, "chat")
        browser.see("#chat-attach")
        browser.run("document.getElementById('chat-file').classList.remove('hidden')")
        browser.see("#chat-file").send_keys(str(picture))
        browser.see("#chat-images img")
        browser.say("What is this?")
        browser.wait_text(".turn.assistant > .text", "A dot.")
        assert len(browser.all(".turn.user img")) == 1
        assert browser.all("#chat-images li") == []
        assert browser.run("return document.querySelector('.reasoning').open") is False
        browser.click(".reasoning summary")
        assert browser.text(".reasoning .text") == "Let me look."
        browser.wait_text(".figures", "3 tokens")

    listed = [listing(model, capabilities=["generate", "vision"])]
    async with played(runtime_dir, [entry(model, model_type="vision")], listed) as (url, pool):
        pool.chat = chat
        await drive(steps, url)
    [work] = pool.asked
    assert work.images == [PNG]


async def test_a_wrong_token_then_the_right_one(browser: Browser, runtime_dir: Path) -> None:
    def steps(url: str) -> None:
        browser.open(url)
        browser.see("#key-value").send_keys("wrong\n")
        browser.wait_text("#key-wrong", "not the right one")
        assert browser.all(".card") == []
        browser.see("#key-value").clear()
        browser.see("#key-value").send_keys("root\n")
        browser.see(card("org/tiny"))
        browser.wait_text("#link", "live")
        # The API key is another one, and asked for when a chat needs it.
        browser.click(card("org/tiny", "[data-action=chat]"))
        browser.say("Hi")
        browser.wait_text("#key-title", "API key")
        browser.click("#key-keep")
        browser.see("#key-value").send_keys("key\n")
        browser.wait_text(".turn.assistant > .text", "Hello.")
        kept = browser.run("return [JSON.stringify(sessionStorage), JSON.stringify(localStorage), document.cookie]")
        assert "key" in kept[0]
        assert "root" not in kept[0]  # it was not asked to keep that one
        assert kept[1:] == ["{}", ""]
        urls = browser.run("return [location.href, ...performance.getEntries().map((entry) => entry.name)]")
        assert not [named for named in urls if "root" in named or "wrong" in named]
        browser.driver.refresh()
        browser.wait_text("#key-title", "admin token")
        browser.click("#key-no")
        browser.wait_text("#trouble", "admin token")
        browser.wait_text("#link", "locked")

    async def chat(pool: PlayedPool, request_id: bytes, _work: Generate) -> None:
        await pool.broker.finish(request_id, "Hello.")

    keys: dict[str, Any] = {"admin_token": SecretStr("root"), "api_key": SecretStr("key")}
    async with played(runtime_dir, [entry("org/tiny")], **keys) as (url, pool):
        pool.chat = chat
        await drive(steps, url)


async def test_a_download_is_seen_cancelled_and_seen_to_fail(browser: Browser, runtime_dir: Path) -> None:
    model = "org/new"
    row = f'.pull[data-model="{model}"]'

    def begin(url: str) -> None:
        browser.open(url, "disk")
        browser.see("#pull-name").send_keys(f"{model}\n")
        browser.see(row)

    def cancel() -> None:
        browser.wait_text(row, "25 % · 1.0 GiB of 4.0 GiB")
        assert browser.run("return document.querySelector('.pull progress').value") == 0.25
        browser.click(f"{row} [data-action=cancel]")

    async with played(runtime_dir, [], []) as (url, pool):
        await drive(begin, url)
        await drive(lambda: wait_until(lambda: pool.pulls, 10, "the pull"))
        step = {"model_id": model, "reason": None, "fraction": 0.25, "done_bytes": GIB, "total_bytes": 4 * GIB}
        await pool.broker.outputs(Output(pool.pulls[0], PARTIAL, step))
        await drive(cancel)
        await drive(lambda: wait_until(lambda: pool.commands == [("CancelPull", model)], 10, "the cancel"))
        await pool.fail(pool.pulls[0], Failure(Code.MODEL_UNAVAILABLE, "the download was cancelled"))
        await drive(lambda: browser.wait_text(f"{row} .wrong", "the download was cancelled"))
        await drive(lambda: browser.click(f"{row} button:not([hidden])"))
        await drive(lambda: wait_until(lambda: not browser.all(row), 10, "the row is closed"))


async def test_a_reload_shows_both_processes_and_asks_before_a_gap(browser: Browser, runtime_dir: Path) -> None:
    why = "org/tiny needs 9.00 GiB beside the process that serves; 1.00 GiB of 12.00 are free"
    other = {"pid": 4712, "state": "loading", "reason": None, "since": 1.0, "size_bytes": 1, "footprint_bytes": 1}
    incoming = {**other, "in_flight": 0, "stage": "weights", "fraction": 0.5}
    models = [entry("org/tiny")]

    def begin(url: str) -> None:
        browser.open(url)
        browser.click(card("org/tiny", "[data-action=reload]"))
        browser.wait_text("#said", "org/tiny is reloaded")
        browser.wait_text(card("org/tiny", ".facts"), "4711 → 4712")
        browser.see(card("org/tiny", "> progress"))

    def without_room(answer: str) -> None:
        browser.click(card("org/tiny", "[data-action=reload]"))
        browser.wait_text("#ask-text", f"{why}. Its process can end first")
        browser.click(answer)

    async with played(runtime_dir, models) as (url, pool):
        models[0] |= {"reason": "reload", "stage": "weights", "fraction": 0.5, "incoming": incoming}
        await drive(begin, url)
        assert pool.commands == [("Reload", "org/tiny")]
        for answer, asked in (("#ask button[value=no]", 2), ("#ask-yes", 4)):
            pool.refusals["Reload"] = Failure(Code.INSUFFICIENT_MEMORY, f"{why}; allow_gap ends that process first")
            await drive(without_room, answer)
            await drive(lambda asked=asked: wait_until(lambda: len(pool.commands) == asked, 10, "the command"))
        pool.refusals["Reload"] = Failure(Code.LOAD_FAILED, "org/tiny cannot be loaded: torn weights")
        await drive(lambda: browser.click(card("org/tiny", "[data-action=reload]")))
        await drive(lambda: browser.wait_text("#notices", "torn weights"))


async def test_it_works_below_a_path_of_a_proxy(browser: Browser, runtime_dir: Path) -> None:
    def steps(url: str) -> None:
        for page in (f"{url}/", f"{url}/ui"):
            browser.driver.get(page)
            browser.wait_text("#link", "live")
            browser.see(card("org/tiny", ".uplot"))
        browser.click(card("org/tiny", "[data-action=unload]"))
        names = browser.run("return performance.getEntriesByType('resource').map((entry) => entry.name)")
        assert [name for name in names if not name.startswith(f"{url}/")] == []

    async with played(runtime_dir, [entry("org/tiny")]) as (url, pool), proxied(url, "/models") as outer:
        await drive(steps, outer)
        await drive(lambda: wait_until(lambda: pool.commands == [("Unload", "org/tiny")], 10, "the unload"))


async def test_many_downloads_and_answers_leave_a_connection_for_the_buttons(
    browser: Browser, runtime_dir: Path
) -> None:
    """A browser opens six to one gateway: what is too much waits in the page."""
    models = [entry(f"org/model-{number}") for number in range(5)]

    async def chat(pool: PlayedPool, request_id: bytes, _work: Generate) -> None:
        await pool.broker.outputs(Output(request_id, PARTIAL, {"text": "Half"}))  # and no end

    def choose(model: str) -> None:
        browser.run("location.hash = `#chat/${encodeURIComponent(arguments[0])}`", model)
        wait_until(lambda: browser.run("return document.getElementById('chat-model').value") == model, 10, model)

    def begin(url: str) -> None:
        browser.open(url, "disk")
        for number in range(6):
            browser.see("#pull-name").send_keys(f"org/new-{number}\n")
        wait_until(lambda: len(browser.all(".pull")) == 6, 10, "six downloads")
        assert browser.text('.pull[data-model="org/new-1"]').count("waits for another download") == 1
        for model in models:
            choose(model["model_id"])
            browser.say("Hi")
            browser.wait_text(".turn.assistant", "Half" if model in models[:3] else "until another answer")
        browser.click("#chat-stop")  # the fifth, which has not begun
        browser.wait_text(".turn .end", "Stopped")

    def steer() -> None:
        browser.run("location.hash = '#models'")
        asked = browser.requests("admin/models/status")
        wait_until(lambda: browser.requests("admin/models/status") >= asked + 2, 10, "the page still asks")
        browser.click(card("org/model-0", "[data-action=kill]"))
        browser.click("#ask-yes")
        browser.run("location.hash = '#disk'")
        browser.click('.pull[data-model="org/new-1"] [data-action=cancel]')
        wait_until(lambda: not browser.all('.pull[data-model="org/new-1"]'), 10, "what has not begun is forgotten")

    def stop_one() -> None:
        choose("org/model-0")
        browser.click("#chat-stop")
        choose("org/model-3")
        browser.wait_text(".turn.assistant", "Half")

    async with played(runtime_dir, models) as (url, pool):
        pool.chat = chat
        await drive(begin, url)
        assert len(pool.pulls) == 1
        await drive(steer)
        await drive(lambda: wait_until(lambda: pool.commands == [("Kill", "org/model-0")], 10, "the kill"))
        await drive(stop_one)
        # The next download begins when the first has ended; the one that was cancelled never does.
        await pool.fail(pool.pulls[0], Failure(Code.MODEL_UNAVAILABLE, "the hub is away"))
        await drive(lambda: wait_until(lambda: len(pool.pulls) == 2, 10, "the next download"))


async def test_an_address_that_is_refused_says_what_to_do(browser: Browser, runtime_dir: Path) -> None:
    def steps(url: str) -> None:
        # What a rebound name gets, by the same code: the browser may not look names up here.
        browser.cdp("Network.enable")
        browser.cdp("Network.setExtraHTTPHeaders", headers={"origin": "http://evil.example"})
        browser.open(url)
        text = browser.wait_text("#trouble", "localhost")
        assert "MLX_BROKER_ADMIN_TOKEN" in text
        browser.wait_text("#link", "refused")
        assert browser.all(".card") == []

    async with played(runtime_dir, [entry("org/tiny")]) as (url, _pool):
        await drive(steps, url)


async def test_a_tab_that_sleeps_asks_for_nothing_and_is_right_when_it_wakes(
    browser: Browser, runtime_dir: Path
) -> None:
    asks = "admin/models/status"

    def fall_asleep(url: str) -> None:
        browser.open(url)
        browser.see(card("org/tiny", ".uplot"))
        wait_until(lambda: browser.requests(asks) >= 2, 20, "two polls")
        browser.run(
            "const entries = () => performance.getEntriesByType('resource');"
            "window.asks = () => entries().filter((entry) => entry.name.includes(arguments[0])).length;"
            "window.fell = null;"
            "const note = () => { if (document.hidden) window.fell = window.asks(); };"
            "document.addEventListener('visibilitychange', note);",
            asks,
        )
        browser.driver.minimize_window()
        wait_until(lambda: browser.run("return document.hidden"), 10, "hidden")
        browser.cdp("Page.setWebLifecycleState", state="frozen")

    def wake() -> None:
        browser.cdp("Page.setWebLifecycleState", state="active")
        fell, asked = browser.run("return [window.fell, window.asks()]")
        assert asked <= fell + 1  # one may have been on its way
        # An hour later, by the page's clock.
        browser.run("const now = Date.now.bind(Date); Date.now = () => now() + 3_600_000;")
        browser.driver.maximize_window()
        browser.wait_text(card("org/tiny", ".badge"), "failed")
        browser.wait_text(card("org/tiny", "> .line"), "while nobody looked")
        browser.wait_text("#link", "live")

    async with played(runtime_dir, [entry("org/tiny")]) as (url, pool):
        await drive(fall_asleep, url)
        watched = len(pool.watches)
        pool.models = [entry("org/tiny", state="failed", reason="while nobody looked", pid=None, loaded_at=None)]
        # So long that a page which is awake would have asked.
        await asyncio.sleep(5)
        await drive(wake)
        assert len(pool.watches) == watched + 1


async def test_events_are_shown_before_the_next_poll(browser: Browser, runtime_dir: Path) -> None:
    def steps(url: str) -> None:
        browser.open(url)
        browser.see(card("org/tiny"))

    async with played(runtime_dir, [entry("org/tiny")]) as (url, pool):
        await drive(steps, url)
        await drive(lambda: wait_until(lambda: pool.watches, 10, "the page watches"))
        await pool.change("org/new", "loading", stage="weights", fraction=0.5)
        pool.models = [entry("org/tiny"), entry("org/new", state="loading", stage="weights", fraction=0.5, pid=9)]
        await drive(lambda: browser.wait_text(card("org/new", "> .line"), "50 %"))
