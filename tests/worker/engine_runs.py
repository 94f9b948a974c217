"""An engine in the test's own process, and requests to it."""

from pathlib import Path
from typing import Any

import mlx.core as mx

from broker.wire.outputs import PARTIAL, Output
from broker.wire.packing import pack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from worker.engine import Engine
from worker.text.continuous_batch import ContinuousBatch
from worker.text.engine import TextEngine

# More than any request here can need: every loop over steps has an end.
MOST_STEPS = 20_000


def load(folder: Path, **options: Any) -> TextEngine:
    return TextEngine(Assign(folder.name, str(folder), "text-gen", None, options), lambda _stage, _fraction: None)


def add(engine: Engine, number: int, **fields: Any) -> bytes:
    request_id = b"gateway1" + number.to_bytes(8, "big")
    engine.add(request_id, pack(Generate(**fields)))
    return request_id


def run(engine: Engine, requests: list[dict[str, Any]]) -> list[list[Output]]:
    """The outputs of each of these requests, all in the batch from the beginning."""
    ids = [add(engine, number, **fields) for number, fields in enumerate(requests)]
    outputs: dict[bytes, list[Output]] = {request_id: [] for request_id in ids}
    for output in steps(engine):
        outputs[output.request_id].append(output)
    for of_one in outputs.values():
        assert [output.kind == PARTIAL for output in of_one] == [True] * (len(of_one) - 1) + [False]
    if isinstance(engine, TextEngine):
        assert_empty(engine)
    return list(outputs.values())


def steps(engine: Engine) -> list[Output]:
    outputs: list[Output] = []
    for _ in range(MOST_STEPS):
        if not engine.has_work:
            return outputs
        outputs += engine.step()
    raise AssertionError("the engine does not come to an end")


def joined(outputs: list[Output]) -> dict[str, Any]:
    """All outputs of one request as if they were one."""
    whole: dict[str, Any] = {}
    for output in outputs:
        for name, value in output.body.items():
            whole[name] = whole[name] + value if name in whole else value
    return whole


def answer(engine: Engine, **fields: Any) -> dict[str, Any]:
    """The answer in one, without the number of tokens from the prompt cache, about which the history decides."""
    (outputs,) = run(engine, [fields])
    return without_count(joined(outputs))


def without_count(body: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in body.items() if name != "cached_tokens"}


def assert_empty(engine: TextEngine) -> None:
    assert not engine._sequences
    assert not engine._uids
    assert len(engine._generator) == 0


class Recorded:
    """A model that says of each call how many rows it had, and how many tokens of each."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.calls: list[tuple[int, int]] = []

    def __call__(self, tokens: mx.array, **arguments: Any) -> Any:
        rows, length = tokens.shape
        self.calls.append((rows, length))
        return self._model(tokens, **arguments)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


def forwards(engine: TextEngine) -> list[tuple[int, int]]:
    """What the model of this engine computes from now on, as `Recorded` says it."""
    generator = engine._generator
    assert isinstance(generator, ContinuousBatch)
    generator._model = model = Recorded(generator._model)
    return model.calls
