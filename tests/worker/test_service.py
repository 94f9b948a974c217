"""The worker process from outside, with engines that need no model."""

import random
import signal
import subprocess
import sys

import pytest

from broker.wire.frames import VERSION
from broker.wire.from_gateways import Cancel, InferenceRequest
from broker.wire.from_peers import Ack, Hello
from broker.wire.from_workers import LoadFailed, Progress, Ready
from broker.wire.outputs import ERROR, FINAL, PARTIAL, WINDOW, Outputs, decode_outputs
from broker.wire.packing import pack
from broker.wire.to_workers import Assign, Shutdown
from broker.wire.work import Generate
from tests.worker.harness import GATEWAY, ROOT, Worker, WorkerHarness, text_of

ECHO = "worker.echo.engine:EchoEngine"
MISBEHAVING = "tests.engines:Misbehaving"


@pytest.fixture
def worker(harness: WorkerHarness) -> Worker:
    worker = harness.start()
    worker.serve(MISBEHAVING)
    return worker


def test_the_first_messages_of_a_worker(harness: WorkerHarness) -> None:
    worker = harness.start()
    hello = worker.next_message().body
    assert hello == Hello()
    worker.send(Assign("echo", "/nowhere", "echo"))
    assert worker.next_message().body == Progress("weights", 1.0)
    assert worker.next_message().body == Ready(mlx_active_bytes=0, context_length=0)


def test_streamed_and_whole_answers(worker: Worker) -> None:
    streamed = worker.request(prompt="hello world", stream=True)
    outputs = worker.until_ended(streamed)[streamed]
    assert [output.kind for output in outputs] == [PARTIAL, PARTIAL, FINAL]
    assert text_of(outputs) == "hello world"
    whole = worker.request(prompt="hello world", max_tokens=4)
    outputs = worker.until_ended(whole)[whole]
    assert [output.kind for output in outputs] == [FINAL]
    assert outputs[0].body == {
        "text": "hello worldhell",
        "finish_reason": "length",
        "prompt_tokens": 3,
        "completion_tokens": 4,
        "cached_tokens": 0,
    }


def test_outputs_of_a_step_travel_as_one_message_per_gateway(worker: Worker) -> None:
    worker.request(prompt="slow x", max_tokens=1)
    worker.expect(Outputs)
    with worker.stopped():
        mine = [worker.request(prompt="a" * 40, stream=True) for _ in range(3)]
        other = worker.request(gateway=b"gateway2", prompt="b" * 40, stream=True)
    sizes: dict[bytes, int] = {}
    ends = 0
    while ends < 4:
        entries = worker.expect(Outputs).entries
        (gateway,) = {request_id[:8] for request_id, _ in entries}
        sizes[gateway] = max(sizes.get(gateway, 0), len(entries))
        ends += sum(kind != PARTIAL for _, kind in entries)
        assert {request_id for request_id, _ in entries} <= {*mine, other}
    assert sizes == {GATEWAY: 3, b"gateway2": 1}


def test_what_is_there_goes_on_before_all_that_has_come_is_taken_in(worker: Worker) -> None:
    worker.request(prompt="slow x", max_tokens=1)
    worker.expect(Outputs)
    with worker.stopped():
        requests = [worker.request(prompt="dawdle " * 9, stream=True) for _ in range(4)]
    sizes = [len(worker.expect(Outputs).entries) for _ in requests]
    assert sizes == [1, 2, 3, 4]


def test_a_cancel_waits_for_no_request_before_it(worker: Worker) -> None:
    worker.request(prompt="slow x", max_tokens=1)
    worker.expect(Outputs)
    with worker.stopped():
        first, gone = (worker.request(prompt="dawdle " * 9, stream=True) for _ in range(2))
        worker.send(Cancel(), gone)
    entries: list[tuple[bytes, int]] = []
    while (gone, ERROR) not in entries:
        entries += worker.expect(Outputs).entries
    # The first one may have been taken in, and had a step or two, before the others came.
    assert len(entries) < 4
    assert {*entries} <= {(first, PARTIAL), (gone, ERROR)}
    assert gone not in worker.until_ended(first)


@pytest.mark.parametrize(
    ("payload", "param", "message"),
    [
        (b"\xc1", None, "not msgpack"),
        (pack(Generate()), "messages", "nothing to echo"),
        (pack(Generate(messages=[])), "messages", "messages is empty"),
        (pack(Generate(messages=[{"content": "x"}])), "messages[0].role", "must be a string"),
        (pack(Generate(prompt="x", max_tokens=0)), "max_tokens", "at least 1"),
        (pack(Generate(prompt="refuse")), "prompt", "refused"),
    ],
)
def test_a_bad_request_does_not_harm_others(worker: Worker, payload: bytes, param: str | None, message: str) -> None:
    good = worker.request(prompt="x" * 400, stream=True)
    bad = worker.request_payload(payload)
    outputs = worker.until_ended(good, bad)
    (error,) = outputs[bad]
    assert (error.kind, error.body["code"], error.body["param"]) == (ERROR, "invalid_request", param)
    assert message in error.body["message"]
    assert text_of(outputs[good]) == "x" * 400


def test_malformed_messages_are_logged_and_dropped(worker: Worker) -> None:
    worker.send_frames([b""])
    worker.send_frames([VERSION, b"REQUEST", b"short", b"\x80", b""])
    worker.send_frames([b"XX9", b"CANCEL", b"", b"\x80"])
    worker.send_frames([VERSION, b"NONSENSE", b"", b"\x80"])
    worker.send_frames([VERSION, b"CANCEL", b"", b"\xc1"])
    worker.send(InferenceRequest("model", pack(Generate(prompt="no id"))))
    worker.send(Hello())
    assert worker.answer(worker.request(prompt="still here"))["text"] == "still here"
    assert worker.stderr.count("dropped a malformed message") == 5
    assert "id that is empty" in worker.stderr


def test_cancel_ends_a_request_once(worker: Worker) -> None:
    request_id = worker.request(prompt="slow " + "x" * 4000, stream=True)
    worker.expect(Outputs)
    worker.send(Cancel(), request_id)
    outputs = worker.until_ended(request_id)[request_id]
    assert outputs[-1].kind == ERROR
    assert outputs[-1].body["code"] == "cancelled"
    # A second CANCEL, and one for a request that never was, get no answer at all.
    worker.send(Cancel(), request_id)
    worker.send(Cancel(), b"x" * 16)
    worker.answer(worker.request(prompt="next"))


def test_a_request_id_in_use_is_refused_silently(worker: Worker) -> None:
    request_id = worker.request(prompt="slow " + "x" * 200, stream=True)
    worker.expect(Outputs)
    worker.send(InferenceRequest("model", pack(Generate(prompt="twice"))), request_id)
    outputs = worker.until_ended(request_id)[request_id]
    assert outputs[-1].kind == FINAL
    assert "twice" not in text_of(outputs)


@pytest.mark.parametrize(
    ("prompt", "kind"),
    [("repeat after 2 tokens " + "x" * 40, FINAL), ("lose", ERROR), ("fail after 2 tokens " + "x" * 40, ERROR)],
)
def test_one_end_per_request_whatever_the_engine_does(worker: Worker, prompt: str, kind: int) -> None:
    request_id = worker.request(prompt=prompt, stream=True)
    assert worker.until_ended(request_id)[request_id][-1].kind == kind
    assert worker.answer(worker.request(prompt="next"))["text"] == "next"


@pytest.mark.parametrize("stream", [True, False])
def test_an_output_that_cannot_be_encoded_ends_its_own_request(worker: Worker, stream: bool) -> None:
    others = [worker.request(prompt="x" * 400, stream=True), worker.request(b"gateway2", prompt="y" * 40)]
    garbled = worker.request(prompt="garble after 2 tokens " + "x" * 4000, stream=stream)
    outputs = worker.until_ended(garbled, *others)
    assert [output.kind for output in outputs[garbled]] == [PARTIAL] * (3 * stream) + [ERROR]
    failure = outputs[garbled][-1].body
    assert failure["code"] == "internal_error"
    assert "surrogates not allowed" in failure["message"]
    assert [text_of(outputs[other]) for other in others] == ["x" * 400, "y" * 40]
    # The engine makes nothing more of it: until_ended and the log would tell.
    assert worker.answer(worker.request(prompt="next " * 100))["text"] == "next " * 100
    assert "for a request that has ended" not in worker.stderr


def test_an_output_of_an_unknown_kind_ends_its_own_request(worker: Worker) -> None:
    other = worker.request(prompt="x" * 400, stream=True)
    inventing = worker.request(prompt="invent after 2 tokens " + "x" * 4000)
    outputs = worker.until_ended(inventing, other)
    (failure,) = outputs[inventing]
    assert (failure.kind, failure.body["code"]) == (ERROR, "internal_error")
    assert failure.body["message"] == "the answer cannot be sent: 7 is not a kind of output"
    assert text_of(outputs[other]) == "x" * 400
    assert worker.answer(worker.request(prompt="next " * 100))["text"] == "next " * 100
    assert "for a request that has ended" not in worker.stderr


def test_one_end_per_request_under_random_cancels(worker: Worker) -> None:
    generator = random.Random(7)
    requests = []
    for _ in range(200):
        text = "x" * generator.randint(1, 200)
        requests.append(worker.request(prompt=text, stream=generator.random() < 0.5))
        for request_id in generator.sample(requests, k=generator.randint(0, min(2, len(requests)))):
            worker.send(Cancel(), request_id)
    ends = {request_id: outputs[-1] for request_id, outputs in worker.until_ended(*requests).items()}
    assert {end.kind for end in ends.values()} == {FINAL, ERROR}
    assert all(end.body["code"] == "cancelled" for end in ends.values() if end.kind == ERROR)


def test_requests_that_arrive_during_a_long_step_all_fit(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.serve(ECHO, delay_seconds=0.15)
    requests = [worker.request(prompt="hi") for _ in range(5000)]
    assert all(outputs[-1].kind == FINAL for outputs in worker.until_ended(*requests).values())


def test_an_engine_that_breaks_ends_all_requests_and_the_process(worker: Worker) -> None:
    others = [worker.request(prompt="x" * 4000, stream=True) for _ in range(3)]
    breaking = worker.request(prompt="raise after 3 tokens xxxxxxxx", stream=True)
    for outputs in worker.until_ended(*others, breaking).values():
        assert outputs[-1].body["code"] == "internal_error"
        assert "the step breaks on request" in outputs[-1].body["message"]
    assert worker.exit_code() == 1
    assert worker.stderr.splitlines()[-1] == "RuntimeError: the step breaks on request"


def test_the_last_message_leaves_however_large(worker: Worker) -> None:
    """The ends of all requests in one message, larger than the system's buffers, and then the process exits."""
    others = [worker.request(prompt="x", max_tokens=10**6) for _ in range(10_000)]
    breaking = worker.request(prompt="raise after 3 tokens xxxxxxxx")
    ends = worker.until_ended(*others, breaking).values()
    assert {outputs[-1].body["code"] for outputs in ends} == {"internal_error"}
    assert worker.exit_code() == 1


def test_a_load_that_fails_says_why_in_one_line(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.assign(MISBEHAVING, on_load="raise")
    assert worker.expect(LoadFailed).message == "model.safetensors: broken on request"
    assert worker.exit_code() == 1
    assert worker.stderr.splitlines()[-1] == "ValueError: model.safetensors: broken on request"


@pytest.mark.parametrize(
    ("model_type", "engine", "named"),
    [("dance", None, "dance"), ("text-gen", "tests.no_such:Engine", "tests.no_such"), ("text-gen", "json:X", "X")],
)
def test_an_engine_that_is_not_there(harness: WorkerHarness, model_type: str, engine: str | None, named: str) -> None:
    worker = harness.start()
    worker.assign(engine, model_type=model_type)
    assert named in worker.expect(LoadFailed).message
    worker.send(Shutdown())
    assert worker.exit_code() == 1


def test_a_slow_load_reports_progress(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.assign(MISBEHAVING, on_load="slow")
    fractions = []
    while isinstance(body := worker.next_message().body, Progress):
        fractions.append(body.fraction)
    assert isinstance(body, Ready)
    assert fractions[1:] == [tenth / 10 for tenth in range(1, 11)]


@pytest.mark.parametrize(
    ("prompt", "code"),
    [
        ("crash", -signal.SIGSEGV),
        ("abort", -signal.SIGABRT),
        ("exit 7", 7),
    ],
)
def test_deaths_on_request(worker: Worker, prompt: str, code: int) -> None:
    worker.request(prompt=prompt)
    assert worker.exit_code() == code


def test_shutdown_flushes_what_was_said(worker: Worker) -> None:
    requests = [worker.request(prompt="x" * 2000, stream=True) for _ in range(20)]
    worker.until_ended(*requests)
    last = worker.request(prompt="refuse")
    worker.send(Shutdown())
    assert worker.failure(last).message == "refused on request"
    assert worker.exit_code() == 0


def test_shutdown_before_a_model_is_assigned(harness: WorkerHarness) -> None:
    worker = harness.start()
    worker.expect(Hello)
    worker.send(Cancel(), b"x" * 16)
    worker.send(Shutdown())
    assert worker.exit_code() == 0
    assert "CANCEL before ASSIGN" in worker.stderr


def test_heartbeats_tell_work_from_life(worker: Worker) -> None:
    worker.request(prompt="hang after 3 tokens xxxxxxxxxxxx", stream=True)
    worker.expect(Outputs)
    before = worker.next_heartbeat().steps
    # The main thread hangs now; beats go on, and after a last change the counter stands still.
    while (steps := worker.next_heartbeat().steps) != before or steps < 4:
        before = steps
    assert [worker.next_heartbeat().steps for _ in range(5)] == [steps] * 5


def test_a_worker_waits_for_those_who_read(worker: Worker) -> None:
    """But goes on to take commands, and to live."""
    worker.is_told = False
    tokens = 3 * WINDOW
    first = worker.request(prompt="abcd", stream=True, max_tokens=tokens)

    def until_it_stands_still(expected: int) -> int:
        """How many outputs it has sent. Not before those that are expected: a few beats can also be alike because its
        main thread, which has a lower priority, has not run yet."""
        while outputs() < expected:
            worker.next_heartbeat()
        steps = worker.next_heartbeat().steps
        while [worker.next_heartbeat().steps for _ in range(5)] != [steps] * 5:
            steps = worker.next_heartbeat().steps
        return outputs()

    def outputs() -> int:
        return sum(isinstance(message.body, Outputs) for message in worker.inbox)

    assert until_it_stands_still(WINDOW) == WINDOW
    second = worker.request(prompt="abcd", stream=True, max_tokens=1)
    worker.send(Cancel(), second)
    worker.send(Ack(WINDOW // 2))
    # The end of the second took one place of those that were free, and no step.
    assert until_it_stands_still(WINDOW + WINDOW // 2) == WINDOW + WINDOW // 2
    worker.is_told = True
    worker.send(Ack(worker.outputs_got))
    ends = worker.until_ended(first, second)
    assert text_of(ends[first]) == "abcd" * tokens
    assert [output.kind for output in ends[second]] == [ERROR]


def test_signals(worker: Worker) -> None:
    worker.process.send_signal(signal.SIGINT)
    assert worker.answer(worker.request(prompt="still here"))["text"] == "still here"
    worker.process.terminate()
    assert worker.exit_code() == -signal.SIGTERM


def test_sigterm_can_be_ignored_on_request(worker: Worker) -> None:
    worker.answer(worker.request(prompt="ignore sigterm"))
    worker.process.terminate()
    assert worker.answer(worker.request(prompt="still here"))["text"] == "still here"


def test_leaked_memory_stays(worker: Worker) -> None:
    psutil = pytest.importorskip("psutil")
    process = psutil.Process(worker.process.pid)
    before = process.memory_info().rss
    worker.answer(worker.request(prompt="leak 64"))
    assert process.memory_info().rss - before > 60 * 2**20


def test_a_worker_without_a_model_imports_no_mlx() -> None:
    code = "import sys, worker.service, worker.echo.engine; sys.exit(any('mlx' in name for name in sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=30).returncode == 0


def test_decoded_outputs_have_bodies(worker: Worker) -> None:
    worker.request(prompt="x")
    (output,) = decode_outputs(worker.expect(Outputs))
    assert output.kind == FINAL
