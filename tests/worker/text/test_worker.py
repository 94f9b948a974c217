"""The worker process with a real model, from a new process to text."""

import signal
from pathlib import Path

from broker.wire.from_gateways import Cancel
from broker.wire.from_peers import Hello
from broker.wire.from_workers import LoadFailed, Progress, Ready
from broker.wire.outputs import ERROR, FINAL, Outputs
from broker.wire.to_workers import Assign, Shutdown
from tests.tiny_models import make_tiny_model
from tests.worker.harness import WorkerHarness, text_of


def test_from_a_new_process_to_text(harness: WorkerHarness, tiny_model: Path) -> None:
    worker = harness.start()
    ready = worker.serve(None, tiny_model)
    assert ready.context_length == 8192
    assert ready.mlx_active_bytes > 90_000
    messages = [{"role": "user", "content": "hello"}]
    streamed = worker.request(messages=messages, temperature=0.0, max_tokens=30, stream=True)
    whole = worker.request(messages=messages, temperature=0.0, max_tokens=30)
    bad = worker.request(prompt=[99999])
    outputs = worker.until_ended(streamed, whole, bad)
    assert text_of(outputs[streamed]) == text_of(outputs[whole])
    assert outputs[streamed][-1].body["completion_tokens"] == 30
    assert [o.kind for o in outputs[whole]] == [FINAL]
    assert [o.kind for o in outputs[bad]] == [ERROR]
    # The client goes: its end comes at once, and nothing of it is left to disturb the next one.
    long = worker.request(prompt="y", max_tokens=8000, stream=True)
    worker.expect(Outputs)
    worker.send(Cancel(), long)
    assert worker.until_ended(long)[long][-1].body["code"] == "cancelled"
    assert worker.answer(worker.request(messages=messages, temperature=0.0, max_tokens=30))["text"] == text_of(
        outputs[whole]
    )
    worker.process.terminate()
    assert worker.exit_code() == -signal.SIGTERM
    assert worker.stderr == ""


def test_a_spare_imports_before_it_knows_its_model(harness: WorkerHarness, tiny_model: Path) -> None:
    worker = harness.start(spare=True)
    # May arrive at any time; here long before the imports are done.
    worker.expect(Hello)
    worker.send(Assign("tiny", str(tiny_model), "text-gen"))
    stages = []
    while isinstance(body := worker.next_message().body, Progress):
        stages.append(body.stage)
    assert stages[0] == "imported"
    assert isinstance(body, Ready)
    assert len(worker.answer(worker.request(prompt="x", max_tokens=5, seed=1))["text"]) > 0


def test_a_broken_folder_names_its_file(harness: WorkerHarness, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "broken")
    (folder / "tokenizer.json").unlink()
    worker = harness.start()
    worker.assign(None, folder)
    message = worker.expect(LoadFailed).message
    assert message.startswith("tokenizer.json")
    assert "\n" not in message
    worker.send(Shutdown())
    assert worker.exit_code() == 1
    assert "Traceback" in worker.stderr


def test_heartbeats_go_on_during_a_long_prefill(harness: WorkerHarness, tmp_path: Path) -> None:
    """Within one step, in which MLX computes and the main thread runs no Python."""
    folder = make_tiny_model(tmp_path / "wide", hidden_size=128, context_length=2**16)
    worker = harness.start(heartbeat_interval=0.004)
    worker.serve(None, folder, prefill_step_size=2**16)
    beats_in_one_step = 0
    # What takes a CPU a second takes a GPU no time: longer prompts until one takes long enough.
    for length in (1024, 4096, 2**14, 2**15):
        worker.heartbeats.clear()
        worker.answer(worker.request(prompt="x" * length, max_tokens=1))
        steps = [worker.next_heartbeat().steps for _ in range(len(worker.heartbeats))]
        beats_in_one_step = max((steps.count(count) for count in steps), default=0)
        if beats_in_one_step >= 5:
            break
    assert beats_in_one_step >= 5
    assert worker.next_heartbeat().mlx_active_bytes > 0
