"""A text engine whose model computes as slowly as a given machine: it waits for each call in proportion to its tokens.

Named in settings as `tests.slow_engine:SlowEngine`. Options: the model's `folder`, `tokens_per_second` of prefill,
`step_seconds` of decode, and those of a text model. `prefill_log`: a file that gets a line for each piece of a prompt,
with the monotonic times of its beginning and end.
"""

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
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
        self.is_slow = True

    def __call__(self, tokens: mx.array, **arguments: Any) -> Any:
        rows, length = tokens.shape
        result = self._model(tokens, **arguments)
        if self.is_slow:
            self._wait(self._step if length == 1 else rows * length * self._token)
        return result

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)


class WatchedModel(SlowModel):
    """One that writes down when it computes pieces of prompts."""

    def __init__(self, model: Any, log: Path, *, token: float, step: float) -> None:
        super().__init__(model, token=token, step=step)
        self._log = log

    def __call__(self, tokens: mx.array, **arguments: Any) -> Any:
        began = time.monotonic()
        result = super().__call__(tokens, **arguments)
        if self.is_slow and tokens.shape[1] > 1:
            with self._log.open("a") as log:
                log.write(f"{began} {time.monotonic()}\n")
        return result


class SlowEngine(TextEngine):
    """See the top of this file."""

    def __init__(self, assign: Assign, report: Report) -> None:
        options = dict(assign.options)
        token, step = 1 / options.pop("tokens_per_second"), options.pop("step_seconds")
        log = options.pop("prefill_log", None)

        def make(loaded: LoadedModel, draft: Any, settings: TextOptions) -> Batch:
            slow = SlowModel(loaded.model, token=token, step=step)
            watched = slow if log is None else WatchedModel(loaded.model, Path(log), token=token, step=step)
            watched.is_slow = False  # what is found out while loading takes no time
            models.append(watched)
            return make_batch(replace(loaded, model=watched), draft, settings)

        models: list[SlowModel] = []
        folder = options.pop("folder")
        super().__init__(replace(assign, path=folder, options=options), report, make_batch=make)
        models[0].is_slow = True
