"""What a worker process logs about requests: their ids, and nothing of what they say."""

from pathlib import Path

from broker.processes.lines import LogEvent, Printed
from broker.wire.from_gateways import InferenceRequest
from broker.wire.from_workers import LoadFailed
from broker.wire.packing import pack
from broker.wire.to_workers import Shutdown
from broker.wire.work import Generate
from tests.worker.harness import GATEWAY, Worker, WorkerHarness

MISBEHAVING = "tests.engines:Misbehaving"
PROMPT = "words of a client"


def events_of(worker: Worker) -> list[LogEvent]:
    printed = Printed()
    printed.feed(worker.stderr.encode())
    return [*printed.take(0.0), *printed.take_rest()]


def ask(worker: Worker, prompt: str, number: int = 1) -> None:
    request_id = GATEWAY + number.to_bytes(8, "big")
    worker.send(InferenceRequest("model", pack(Generate(prompt=prompt)), trace=f"request {number}"), request_id)
    worker.until_ended(request_id)


def test_a_line_about_a_request_has_its_id_and_no_word_of_it(harness: WorkerHarness) -> None:
    worker = harness.start(arguments=("--log-level=info",))
    worker.serve(MISBEHAVING)
    ask(worker, f"quote {PROMPT}")
    ask(worker, f"garble {PROMPT}", 2)
    ask(worker, f"tell {PROMPT}", 3)  # which ends the process
    assert worker.exit_code() == 1
    first, *others = events_of(worker)
    assert (first.text, first.level, first.trace) == ("a request fails while it is added", 40, "request 1")
    assert first.lines[0] == "Traceback (most recent call last):"
    assert first.lines[-1].startswith("ValueError: (a message that may quote a request")
    assert [event.text for event in others] == [
        "an output of the engine cannot be encoded",
        "the engine of nowhere fails",
    ]
    assert PROMPT not in worker.stderr


def test_the_level_debug_shows_all(harness: WorkerHarness) -> None:
    worker = harness.start(arguments=("--log-level=debug",))
    worker.serve(MISBEHAVING)
    ask(worker, f"quote {PROMPT}")
    [event] = events_of(worker)
    assert event.lines[-1] == f"ValueError: cannot read quote {PROMPT}"


def test_a_load_that_fails_says_why_on_every_level(harness: WorkerHarness) -> None:
    worker = harness.start(arguments=("--log-level=error",))
    worker.assign(MISBEHAVING, Path("/models/m"), on_load="raise")
    worker.expect(LoadFailed)
    worker.send(Shutdown())  # else it waits some seconds for it
    assert worker.exit_code() == 1
    [event] = events_of(worker)
    assert event.text == "cannot load m"
    assert event.lines[-1] == "ValueError: model.safetensors: broken on request"
