"""The page in a browser, before real processes: load, chat, a kill in mid-answer, a broker that restarts, no model."""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.conftest import ECHO, MISBEHAVING, PACED
from tests.page.browser import Browser, card
from tests.service import Service, end_process, wait_until
from tests.tiny_models import make_tiny_model

pytestmark = pytest.mark.page

SLOW, BAD = "slow/echo", "bad"
LONG = " ".join(f"word{number}" for number in range(60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of these tests alone, since one of them is deleted."""
    folder = tmp_path_factory.mktemp("models")
    for seed, name in enumerate(("tiny-a", "tiny-b", "tiny-c")):
        make_tiny_model(folder / name, seed=seed)
    return folder


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    """Two models that talk slowly, one of which misbehaves on request, beside three tiny ones."""
    models = {SLOW: {**ECHO, "options": PACED}, BAD: {**MISBEHAVING, "options": PACED}}
    # A kill in mid-answer is seen.
    with Service(folder, {"models": models, "gateway": {"resume_limit": 0}}) as service:
        yield service


def chat_with(browser: Browser, model: str) -> None:
    browser.run("location.hash = arguments[0]", f"#chat/{quote(model, safe='')}")
    wait_until(lambda: browser.run("return document.getElementById('chat-model').value") == model, 10, model)


def test_load_pin_chat_log_and_unload(browser: Browser, service: Service) -> None:
    browser.open(service.url)
    browser.wait_text("#models-empty", "No model is loaded")
    browser.click("#models-empty a")
    browser.click("#disk-list li[data-model=tiny-a] [data-action=load]")
    browser.run("location.hash = '#models'")
    browser.wait_text(card("tiny-a", ".badge"), "ready", 60)
    browser.wait_text(card("tiny-a", "> .line"), "pinned")
    browser.wait_text(card("tiny-a", ".memory"), "MLX")
    browser.wait_text("#memory-legend", "tiny-a")
    browser.click(card("tiny-a", "[data-action=chat]"))
    browser.say("Hello")
    browser.wait_text(".figures", "tokens/s", 60)
    assert browser.text(".turn.assistant > .text") != ""
    browser.run("history.back()")
    browser.wait_text(card("tiny-a", ".chart"), "Tokens/s")
    browser.see(card("tiny-a", ".uplot canvas"))
    browser.click(card("tiny-a", "[data-action=log]"))
    browser.wait_text("#log-state", "Follows tiny-a")
    browser.run("location.hash = '#models'")
    browser.click(card("tiny-a", "[data-action=unpin]"))
    browser.see(card("tiny-a", "[data-action=pin]"))
    browser.click(card("tiny-a", "[data-action=unload]"))
    wait_until(lambda: service.model("tiny-a")["state"] == "unloaded", 30, "tiny-a unloaded")
    wait_until(lambda: not browser.all(card("tiny-a", "[data-action=kill]:not([hidden])")), 20, "no kill")


def test_a_kill_in_mid_answer_while_another_answer_goes_on(browser: Browser, service: Service) -> None:
    for model in (SLOW, BAD):
        service.load(model).raise_for_status()
    browser.open(service.url)
    browser.see(card(BAD))
    chat_with(browser, SLOW)
    browser.say(LONG)
    browser.wait_text(".turn.assistant > .text", "word0")
    chat_with(browser, BAD)
    browser.say(LONG)
    browser.wait_text(".turn.assistant > .text", "word1")
    browser.run("location.hash = '#models'")
    browser.click(card(BAD, "[data-action=kill]"))
    browser.wait_text("#ask-title", f"Kill {BAD}?")
    browser.click("#ask-yes")
    browser.wait_text(card(BAD, ".exit summary"), "SIGKILL")
    chat_with(browser, BAD)
    end = browser.wait_text(".turn .end", "ended in the middle of this answer")
    assert "killed by an administrator" in end
    assert browser.text(".turn.assistant > .text").startswith("word0")
    assert LONG not in browser.text(".turn.assistant > .text")
    # The other one's answer comes to its end, whole.
    chat_with(browser, SLOW)
    wait_until(lambda: browser.text(".turn.assistant > .text").strip() == LONG, 60, "the other answer")
    assert not browser.run("return [...document.querySelectorAll('.turn .end')].some((end) => !end.hidden)")
    # And the model that died answers again.
    chat_with(browser, BAD)
    browser.click(".turn .end button")
    wait_until(lambda: browser.text(".turn.assistant > .text").strip() == LONG, 60, "the answer after all")


def test_a_crash_shows_what_the_process_said(browser: Browser, service: Service) -> None:
    service.load(BAD).raise_for_status()
    browser.open(service.url)
    browser.see(card(BAD))
    chat_with(browser, BAD)
    browser.say("crash after 3 tokens")
    browser.wait_text(".turn .end", "SIGSEGV")
    browser.run("location.hash = '#models'")
    browser.wait_text(card(BAD, ".exit summary"), "SIGSEGV")
    browser.wait_text(card(BAD, ".badge"), "ready")
    chat_with(browser, BAD)
    browser.say("raise after 3 tokens")
    browser.wait_text(".turn:last-child .end", "There is no answer")
    browser.run("location.hash = '#models'")
    browser.wait_text(card(BAD, ".exit summary"), "exit code")
    browser.click(card(BAD, ".exit summary"))
    browser.wait_text(card(BAD, ".exit pre"), "on request")
    browser.click(card(BAD, "[data-action=log]"))
    browser.wait_text("#log-lines", "on request")


def test_stop_ends_an_answer(browser: Browser, service: Service) -> None:
    service.load(SLOW).raise_for_status()
    browser.open(service.url)
    browser.see(card(SLOW))
    chat_with(browser, SLOW)
    browser.say(LONG)
    browser.wait_text(".turn.assistant > .text", "word1")
    browser.click("#chat-stop")
    browser.wait_text(".turn .end", "Stopped")
    assert LONG not in browser.text(".turn.assistant > .text")
    wait_until(lambda: service.model(SLOW)["in_flight"] == 0, 10, "nothing in flight")
    browser.see("#chat-send")


def test_a_broker_and_a_gateway_that_restart_are_found_again(
    browser: Browser, make_service: Callable[..., Service], folder: Path
) -> None:
    service = make_service(models_path=folder, models={SLOW: ECHO})
    service.load(SLOW).raise_for_status()
    browser.open(service.url)
    browser.see(card(SLOW))
    browser.wait_text("#link", "live")
    assert service.broker is not None
    end_process(service.broker.pid)
    service.broker.wait()
    browser.wait_text("#link", "not connected")
    browser.wait_text("#trouble", "connects again by itself")
    assert browser.all(card(SLOW))  # what was known last
    service.start_broker()
    browser.wait_text("#link", "live", 60)
    wait_until(lambda: not browser.all("#trouble .notice"), 10, "no trouble")
    # Pinned models come back with the broker, and events are read again.
    browser.wait_text(card(SLOW, ".badge"), "ready", 60)
    loaded = service.load("tiny-b")
    assert loaded.status_code == 200, loaded.text
    browser.wait_text(card("tiny-b", ".badge"), "ready")
    assert service.gateway is not None
    end_process(service.gateway.pid)
    service.gateway.wait()
    browser.wait_text("#link", "not connected")
    service.start_gateway()
    browser.wait_text("#link", "live", 60)


def test_a_delete_asks_and_takes_the_files(browser: Browser, service: Service, folder: Path) -> None:
    browser.open(service.url, "disk")
    remove = "#disk-list li[data-model=tiny-c] [data-action=remove]"
    browser.click(remove)
    browser.wait_text("#ask-title", "Delete tiny-c?")
    browser.click("#ask button[value=no]")
    assert (folder / "tiny-c").exists()
    browser.click(remove)
    browser.click("#ask-yes")
    wait_until(lambda: not (folder / "tiny-c").exists(), 20, "the files are gone")
    wait_until(lambda: not browser.all("#disk-list li[data-model=tiny-c]"), 20, "the row is gone")


def test_without_a_model_it_says_how_to_get_one(browser: Browser, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    with Service(tmp_path / "models") as service:
        browser.open(service.url)
        text = browser.wait_text("#models-empty", "This machine has no model yet")
        assert "mlx-broker pull" in text
        assert str(tmp_path / "models") in text
        browser.click("#models-empty a")  # where the field is that the words name
        browser.wait_text("#disk-empty", "hub above")
        # A pull that cannot be says why: this service is offline.
        browser.see("#pull-name").send_keys("org/none\n")
        browser.wait_text("#pulls .wrong", "org/none", 60)
