"""A text engine whose model computes as slowly as a given machine: it waits for each call in proportion to its tokens.

Named in settings as `tests.slow_engine:SlowEngine`. Options: the model's `folder`, `tokens_per_second` of prefill,
`step_seconds` of decode, and those of a text model.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import mlx.core as mx

from broker.wire.to_workers import Assign
from worker.engine import Report
from worker.loading.model_folder import LoadedModel
from worker.text.batch import Batch
from worker.text.engine import TextEngine
from worker.text.make_batch import make_batch
from worker.text.options import TextOptions


class SlowModel:
    """A model that waits."""

    def __init__(self, model: Any, *, token: float, step: float, wait: Callable[[float], object] = time.sleep) -> None:
        """token: seconds of each token of a prompt; step: of a step of decode."""
        self._model = model
        self._token = token
        self._step = step
        self._wait = wait

    def __call__(self, tokens: mx.array, **arguments: Any) -> Any:
        rows, length = tokens.shape
        result = self._model(tokens, **arguments)
        self._wait(self._step if length == 1 else rows * length * self._token)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class SlowEngine(TextEngine):
    """See the top of this file."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        token, step = 1 / options.pop("tokens_per_second"), options.pop("step_seconds")

        def make(loaded: LoadedModel, draft: Any, settings: TextOptions) -> Batch:
            slow = SlowModel(loaded.model, token=token, step=step)
            return make_batch(replace(loaded, model=slow), draft, settings)

        folder = options.pop("folder")
        super().__init__(replace(assign, path=folder, options=options), report, make_batch=make)
