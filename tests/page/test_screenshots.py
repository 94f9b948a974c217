"""The pictures of docs/page.md: there, small, and taken anew with RENEW_SCREENSHOTS=1, of a played service."""

import asyncio
import io
import math
import os
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from broker.wire.outputs import PARTIAL, Output
from broker.wire.work import Generate
from tests.page.browser import Browser, card
from tests.page.played import GIB, PlayedPool, entry, listing, played
from tests.service import ROOT, wait_until

pytestmark = [pytest.mark.page, pytest.mark.anyio]

SHOTS = {
    "page-light.png": (1280, 860),
    "page-dark.png": (1280, 860),
    "page-chat.png": (1280, 720),
    "page-phone.png": (375, 812),
}
MAX_BYTES = 160_000
# Minutes pass in seconds, and every look gets an answer of its own.
HURRY = """
const [wait, now, get, start] = [setTimeout, Date.now.bind(Date), fetch, Date.now()];
window.setTimeout = (what, ms, ...more) => wait(what, ms / 20, ...more);
Date.now = () => start + (now() - start) * 20;
window.fetch = (url, options) => get(String(url).replace("max_age=1", "max_age=0"), options);
"""
CHAT, CODE, SEES, WORDS = (
    "mlx-community/Llama-3.3-70B-Instruct-4bit",
    "mlx-community/Qwen3-Coder-30B-A3B-4bit",
    "mlx-community/Qwen2.5-VL-7B-Instruct-4bit",
    "mlx-community/all-MiniLM-L6-v2-4bit",
)


def size(gib: float, limit: float) -> dict[str, int]:
    return {
        "footprint_bytes": int(gib * GIB),
        "memory_limit_bytes": int(limit * GIB),
        "mlx_active_bytes": int(gib * 0.9 * GIB),
        "mlx_cache_bytes": int(gib * 0.05 * GIB),
    }


def busy(tick: int) -> list[dict[str, Any]]:
    """The status at one of many looks, two seconds apart."""
    since = time.time() - 7000
    wave = 1 + 0.25 * math.sin(tick / 9) + 0.08 * math.sin(tick * 1.7)
    burst = max(0.0, math.sin(tick / 14)) * (1 + 0.2 * math.sin(tick))
    exit_ = {
        "code": None,
        "signal": "SIGABRT",
        "at": since + 5000,
        "reason": "died",
        "stderr_tail": ["[METAL] Command buffer execution failed: Insufficient Memory"],
    }
    return [
        entry(
            CHAT,
            since=since,
            tokens_per_second=31 * wave,
            ttft_seconds=0.42 * wave,
            in_flight=3,
            cpu_percent=22 * wave,
            pid=5120,
            **size(41.2, 52),
        ),
        entry(
            CODE,
            since=since,
            tokens_per_second=180 * burst,
            ttft_seconds=0.2 if burst else None,
            in_flight=int(3 * burst),
            cpu_percent=4 + 30 * burst,
            pid=5133,
            pinned=False,
            idle_until=time.time() + 9000,
            restarts=1,
            last_exit=exit_,
            **size(18.4, 26),
        ),
        entry(
            SEES,
            state="loading",
            since=time.time(),
            stage="weights",
            fraction=0.62,
            pid=6201,
            queued=2,
            tokens_per_second=0,
            ttft_seconds=None,
            **size(3.1, 9),
        ),
        entry(
            WORDS,
            model_type="embeddings",
            since=since,
            tokens_per_second=0,
            ttft_seconds=None,
            in_flight=0,
            cpu_percent=1,
            pid=5140,
            prompt_tokens_per_second=0,
            context_length=512,
            **size(0.4, 1),
        ),
    ]


def test_the_pictures_are_there_and_small() -> None:
    for name, dimensions in SHOTS.items():
        path = ROOT / "docs" / name
        assert path.stat().st_size < MAX_BYTES
        with Image.open(path) as picture:
            assert picture.size == dimensions


@pytest.mark.skipif(not os.environ.get("RENEW_SCREENSHOTS"), reason="RENEW_SCREENSHOTS=1 takes them anew")
async def test_take_them_anew(browser: Browser, runtime_dir: Path) -> None:
    async def chat(pool: PlayedPool, request_id: bytes, work: Generate) -> None:
        answer = "A worker runs one model in a process of its own. If it dies, only its own answers end."
        if work.messages and "process" in str(work.messages[-1]):
            await pool.broker.outputs(
                Output(request_id, PARTIAL, {"text": "", "reasoning": "They ask about isolation."})
            )
            for word in answer.split(" "):
                await pool.broker.partial(request_id, f"{word} ")
                await asyncio.sleep(0.05)
        await pool.broker.finish(request_id, "", tokens=19)

    def shoot(name: str) -> None:
        picture = Image.open(io.BytesIO(browser.driver.get_screenshot_as_png())).convert("RGB")
        few = picture.quantize(128, dither=Image.Dither.NONE)
        few.save(ROOT / "docs" / name, optimize=True)

    def steps(url: str) -> None:
        browser.cdp("Page.enable")
        browser.cdp("Page.addScriptToEvaluateOnNewDocument", source=HURRY)
        browser.size(*SHOTS["page-light.png"])
        browser.open(url)
        browser.see(card(CHAT, ".uplot"))
        wait_until(lambda: browser.requests("admin/models/status") > 150, 90, "five minutes")
        shoot("page-light.png")
        browser.scheme("dark")
        wait_until(lambda: browser.all(card(CHAT, ".uplot")), 10, "charts in dark")
        shoot("page-dark.png")
        browser.size(*SHOTS["page-phone.png"])
        wait_until(lambda: browser.run("return innerWidth") == 375, 10, "a phone")
        browser.see(card(CHAT, ".uplot"))
        shoot("page-phone.png")
        browser.scheme("light")
        browser.size(*SHOTS["page-chat.png"])
        browser.run("location.hash = arguments[0]", f"#chat/{CHAT.replace('/', '%2F')}")
        browser.say("Why does each model have a process of its own?")
        browser.wait_text(".figures", "19 tokens")
        browser.run("document.activeElement.blur()")
        shoot("page-chat.png")

    listed = [listing(name, capabilities=["generate", "tools"], pinned=True) for name in (CHAT, CODE, SEES, WORDS)]
    async with played(runtime_dir, busy(0), listed) as (url, pool):
        pool.chat = chat
        ticks = iter(range(10_000))
        pool.look = lambda: busy(next(ticks))
        pool.spares = [{"pid": 5200, "state": "imported", "rss_bytes": GIB // 2}]
        pool.machine = {
            "machine_total_bytes": 96 * GIB,
            "machine_available_bytes": 24 * GIB,
            "uptime_seconds": 95_000.0,
        }
        pool.budget = 72 * GIB
        await asyncio.to_thread(steps, url)
