"""An error of the GPU ends the process, in whatever phase it comes; no request is told anything, so that the broker can
replay those without output. All other errors stay answers."""

import ast
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zmq

from broker.wire.codec import decode, encode
from broker.wire.failure import DEVICE_EXIT_CODE
from broker.wire.from_gateways import InferenceRequest
from broker.wire.from_workers import LoadFailed, Ready
from broker.wire.outputs import ERROR, PARTIAL, Outputs, decode_outputs
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from tests.device_errors import DEVICE_ERRORS
from tests.worker.harness import GATEWAY, ROOT, WorkerHarness
from worker.loading.model_folder import blame
from worker.process.device_errors import is_device_error
from worker.service import Service
from worker.vitals import Vitals

MISBEHAVING = "tests.engines:Misbehaving"
# Phase -> what the request that meets it says. The model has another request meanwhile.
PROMPTS = {"load": None, "add": "reset", "prefill": "gpu", "decode": "gpu after 2 tokens " + "x" * 40}
SECONDS = 20


class Run:
    """A Service in a thread, and the broker's end of its socket."""

    def __init__(self) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._broker = self._context.socket(zmq.PAIR)
        self._broker.bind("inproc://broker")
        self._socket = self._context.socket(zmq.PAIR)
        self._socket.connect("inproc://broker")
        self.raised: BaseException | None = None
        self._thread = threading.Thread(target=self._main)
        self._thread.start()

    def _main(self) -> None:
        try:
            Service(self._socket, Vitals(), Path("/nowhere")).run(spare=False)
        except BaseException as error:  # noqa: BLE001 # looked at by the test
            self.raised = error

    def assign(self, **options: object) -> None:
        self._broker.send_multipart(encode(Assign("m", "/nowhere", "echo", MISBEHAVING, dict(options))))

    def request(self, request_id: bytes, prompt: str, *, stream: bool = True, max_tokens: int | None = None) -> None:
        body = InferenceRequest("m", pack(Generate(prompt=prompt, stream=stream, max_tokens=max_tokens)))
        self._broker.send_multipart(encode(body, request_id))

    def end(self) -> list[object]:
        """The bodies of all messages that it sent until it ended."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        bodies: list[object] = []
        while self._broker.poll(0):
            bodies.append(decode(self._broker.recv_multipart()).body)
        return bodies

    def close(self) -> None:
        self._context.destroy(linger=0)


@pytest.fixture
def a_run() -> Iterator[Run]:
    run = Run()
    yield run
    run.close()


@pytest.mark.parametrize("phase", PROMPTS)
@pytest.mark.parametrize("name", DEVICE_ERRORS)
def test_each_error_in_each_phase_ends_the_service_without_a_word(a_run: Run, name: str, phase: str) -> None:
    prompt = PROMPTS[phase]
    a_run.assign(gpu=name, on_load="gpu" if prompt is None else None)
    if prompt is not None:
        # Whole: of a stream so many outputs might be unread that the service waits for an acknowledgement.
        a_run.request(GATEWAY + b"other...", "y", stream=False, max_tokens=10**9)
        a_run.request(GATEWAY + b"hit.....", prompt)
    bodies = a_run.end()
    assert isinstance(a_run.raised, RuntimeError)
    assert str(a_run.raised) == DEVICE_ERRORS[name]
    outputs = [output for body in bodies if isinstance(body, Outputs) for output in decode_outputs(body)]
    assert {output.kind for output in outputs} <= {PARTIAL}
    assert not [body for body in bodies if isinstance(body, LoadFailed)]
    assert any(isinstance(body, Ready) for body in bodies) == (phase != "load")
    hit = [output for output in outputs if output.request_id.endswith(b"hit.....")]
    assert len(hit) == (2 if phase == "decode" else 0)


@pytest.mark.parametrize("phase", PROMPTS)
def test_the_process_ends_with_its_own_code_and_the_reason_last(harness: WorkerHarness, phase: str) -> None:
    worker, prompt = harness.start(), PROMPTS[phase]
    worker.assign(MISBEHAVING, gpu="interactivity", on_load="gpu" if prompt is None else None)
    if prompt is not None:
        worker.request(prompt=prompt)
    assert worker.exit_code() == DEVICE_EXIT_CODE
    assert worker.stderr.splitlines()[-1] == f"RuntimeError: {DEVICE_ERRORS['interactivity']}"


def test_what_was_raised_because_of_one_counts_too(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="weights: ") as raised, blame(tmp_path, "weights"):
        raise RuntimeError(DEVICE_ERRORS["memory"])
    assert is_device_error(raised.value)


@pytest.mark.parametrize(
    "error",
    [
        None,
        ValueError("[metal::set_wired_limit] Setting a wired limit larger than the maximum working set size"),
        RuntimeError("[metal::load_device] No Metal device available."),  # a load that can never succeed
        RuntimeError("[metal::Device] Unable to load kernel x"),
        RuntimeError("[matmul] dtype must be inexact."),
        RuntimeError("the client writes: [METAL] Command buffer execution failed: x"),
        MemoryError("[malloc] Unable to allocate 1 bytes."),
    ],
)
def test_other_errors_are_answers(error: BaseException | None) -> None:
    assert not is_device_error(error)


def test_an_error_that_is_none_of_the_gpu_still_ends_the_request_alone(a_run: Run) -> None:
    a_run.assign()
    a_run.request(GATEWAY + b"broken..", "raise")
    bodies = a_run.end()
    assert a_run.raised is None
    [error] = [o for body in bodies if isinstance(body, Outputs) for o in decode_outputs(body)]
    assert (error.kind, error.body["code"]) == (ERROR, "internal_error")


def _takes_all(handler: ast.ExceptHandler) -> bool:
    kinds = {node.id for node in ast.walk(handler.type or ast.Name("Exception")) if isinstance(node, ast.Name)}
    return bool(kinds & {"Exception", "BaseException", "RuntimeError"})


def test_where_mlx_computes_no_handler_keeps_an_error_of_the_gpu_for_itself() -> None:
    seen = []
    tool = ROOT / "worker/loading/architectures.py"  # of developers: asks libraries and computes nothing
    for path in sorted({*(ROOT / "worker").rglob("*.py")} - {tool}):
        nodes = list(ast.walk(ast.parse(path.read_text())))
        imported = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
        imported |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}
        if not {name.partition(".")[0] for name in imported} & {"mlx", "mlx_lm", "mlx_vlm"}:
            continue
        for handler in nodes:
            if isinstance(handler, ast.ExceptHandler) and _takes_all(handler):
                seen.append(f"{path.relative_to(ROOT)}:{handler.lineno}")
                raises = any(isinstance(node, ast.Raise) for node in ast.walk(handler))
                assert raises, f"{seen[-1]} must raise what is_device_error finds"
    assert len(seen) > 3
