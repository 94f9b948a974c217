"""/admin/events: every state change with its reason, as it happens."""

import json
import os
import signal
import threading
from typing import Any

from tests.service import Service, wait_until


class Watcher:
    """Collects the events of one endpoint in a thread until it is closed."""

    def __init__(self, service: Service, path: str) -> None:
        self.events: list[dict[str, Any]] = []
        self._stream = service.client.stream("GET", path)
        self.response = self._stream.__enter__()
        assert self.response.headers["content-type"].startswith("text/event-stream")
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        for line in self.response.iter_lines():
            if line.startswith("data: {"):
                self.events.append(json.loads(line.removeprefix("data: ")))

    def states(self, model_id: str) -> list[str]:
        """The states of this model in order, without repetitions (stages of loading)."""
        states = [e["state"] for e in self.events if e.get("model_id") == model_id]
        return [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s]

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()
        self._stream.__exit__(None, None, None)


def test_every_state_change_is_sent(service: Service) -> None:
    everything = Watcher(service, "/admin/events")
    only_a = Watcher(service, "/admin/models/tiny-a/progress")
    service.load("tiny-a")
    service.load("bad")
    os.kill(service.model("tiny-a")["pid"], signal.SIGKILL)
    wait_until(lambda: everything.states("tiny-a").count("ready") == 2, what="the pinned model's return")
    service.unload("tiny-a")
    service.unload("bad")

    wait_until(lambda: "unloaded" in everything.states("bad"), what="the last event")
    assert everything.states("bad") == ["loading", "ready", "draining", "stopping", "unloaded"] or (
        everything.states("bad") == ["loading", "ready", "stopping", "unloaded"]
    )
    assert everything.states("tiny-a") == ["loading", "ready", "loading", "ready", "stopping", "unloaded"]
    assert only_a.states("tiny-a") == everything.states("tiny-a")
    assert {e["model_id"] for e in only_a.events} == {"tiny-a"}
    stages = [e["stage"] for e in only_a.events if e["state"] == "loading"]
    assert "weights" in stages
    assert "tokenizer" in stages
    assert any(e["state"] == "loading" and "SIGKILL" in (e["reason"] or "") for e in only_a.events)
    gone = next(e for e in only_a.events if e["state"] == "unloaded")
    assert gone["reason"] == "unload"
    assert gone["at"] > 1_700_000_000

    late = Watcher(service, "/admin/events")
    wait_until(lambda: late.states("tiny-a") == ["unloaded"], what="the state at the moment of asking")

    assert service.gateway is not None
    service.gateway.terminate()
    for watcher in (everything, only_a, late):
        watcher.join()
