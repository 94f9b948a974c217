"""Debian's chromium, driven by selenium: no window, a profile of its own, and nothing beyond this machine."""

import asyncio
import contextlib
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver import Chrome, ChromeOptions, ChromeService
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from tests.service import wait_until

_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-dev-shm-usage",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-pings",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
)
# What the console says when the gateway is away or refuses: tests bring that about.
_EXPECTED = re.compile(r"Failed to load resource|net::ERR_")


Result = TypeVar("Result")


async def drive(steps: Callable[..., Result], *arguments: Any) -> Result:
    """Runs what waits for the browser, while the gateway goes on."""
    return await asyncio.to_thread(steps, *arguments)


class Browser:
    """One browser; `tab()` gives each test a fresh one in it."""

    def __init__(self, directory: Path) -> None:
        options = ChromeOptions()
        options.binary_location = "/usr/bin/chromium"
        for flag in (*_FLAGS, f"--user-data-dir={directory / 'profile'}", f"--log-net-log={directory / 'net.json'}"):
            options.add_argument(flag)
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver = Chrome(options=options, service=ChromeService("/usr/bin/chromedriver"))
        self.driver.set_script_timeout(30)
        self._first = self.driver.current_window_handle

    def quit(self) -> None:
        self.driver.quit()

    @contextlib.contextmanager
    def tab(self) -> Iterator[None]:
        """A new tab in front; closed at the end."""
        self.driver.switch_to.window(self._first)
        self.driver.switch_to.new_window("tab")
        self.size(1280, 900)
        self.scheme("light")
        try:
            yield
        finally:
            for handle in self.driver.window_handles:
                if handle != self._first:
                    self.driver.switch_to.window(handle)
                    self.driver.close()
            self.driver.switch_to.window(self._first)

    def assert_clean(self) -> None:
        """No script failed, no policy was broken, and the page asked nobody but its gateway."""
        asked = self.run(
            "return performance.getEntriesByType('resource').map((e) => e.name)"
            ".filter((name) => !/^(data|blob):/.test(name) && new URL(name).origin !== location.origin)"
        )
        assert asked == []
        log: list[dict[str, str]] = self.driver.get_log("browser")  # type: ignore[no-untyped-call] # selenium's
        lines = [entry["message"] for entry in log if entry["level"] == "SEVERE"]
        assert [line for line in lines if not _EXPECTED.search(line)] == []

    # ---- what a test does -----------------------------------------------------------------------------------------

    def open(self, url: str, view: str = "models") -> None:
        self.driver.get(f"{url}/ui#{view}")

    def cdp(self, command: str, **params: Any) -> Any:
        return self.driver.execute_cdp_cmd(command, params)

    def size(self, width: int, height: int) -> None:
        mobile = width < 600
        self.cdp("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def scheme(self, name: str) -> None:
        self.cdp("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": name}])

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def all(self, selector: str) -> list[WebElement]:
        found: list[WebElement] = self.driver.find_elements(By.CSS_SELECTOR, selector)
        return found

    def text(self, selector: str) -> str:
        """Of the first one that is there, as it is shown; empty without one."""
        return str(self.run("return document.querySelector(arguments[0])?.innerText ?? ''", selector))

    def click(self, selector: str) -> None:
        """The first visible one, also if the page puts another one in its place just now."""

        def clicked() -> bool:
            with contextlib.suppress(StaleElementReferenceException):
                self.see(selector).click()
                return True
            return False

        wait_until(clicked, 20, lambda: f"a click on {selector}")

    def see(self, selector: str, seconds: float = 20.0) -> WebElement:
        """The first visible one, once there is one."""

        def visible() -> WebElement | None:
            with contextlib.suppress(StaleElementReferenceException):
                return next((each for each in self.all(selector) if each.is_displayed()), None)
            return None

        found: WebElement = wait_until(visible, seconds, lambda: f"{selector}, in {self.text('body')!r:.2000}")
        return found

    def wait_text(self, selector: str, part: str, seconds: float = 20.0) -> str:
        """The text once it has this part."""
        wait_until(
            lambda: part in self.text(selector),
            seconds,
            lambda: f"{part!r} in {selector}: {self.text(selector)!r:.1500}",
        )
        return self.text(selector)

    def say(self, text: str) -> None:
        """A message of the chat that is open."""
        field = self.see("#chat-text")
        field.clear()
        field.send_keys(text)
        self.click("#chat-send")

    def requests(self, part: str) -> int:
        """How many requests of the page to addresses with this part have ended."""
        return int(
            self.run(
                "return performance.getEntriesByType('resource').filter((e) => e.name.includes(arguments[0])).length",
                part,
            )
        )

    def screenshot(self, path: Path) -> None:
        path.write_bytes(self.driver.get_screenshot_as_png())


def card(model: str, rest: str = "") -> str:
    """The selector of a model's card, or of something in it."""
    return f'.card[data-model="{model}"] {rest}'.strip()


def connected_to(path: Path) -> set[str]:
    """Every address that the browser has connected or sent to, by its own log."""
    log = json.loads(path.read_text())
    numbers = log["constants"]["logEventTypes"]
    telling = {numbers[name] for name in ("TCP_CONNECT_ATTEMPT", "UDP_BYTES_SENT")}
    events = [event["params"] for event in log["events"] if event["type"] in telling and "params" in event]
    return {params["address"].rpartition(":")[0] for params in events if "address" in params}
