"""Which work a type of model does, so that a request for other work is refused before a process starts. Pure."""

from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure
from broker.wire.kinds import KINDS, Task

_ENCODING = frozenset({Task.EMBED, Task.RERANK})


def wrong_task(spec: ModelSpec, task: str) -> Failure | None:
    """Why this model cannot do this task; None if it can."""
    if task not in list(Task):
        return Failure(Code.INVALID_REQUEST, f"there is no task {task!r}")
    tasks = KINDS[spec.model_type].tasks
    if task in tasks:
        return None
    does = " and ".join(sorted(tasks)) or "nothing yet"
    message = f"{spec.model_id} is a model of type {spec.model_type}: it can {does}, not {task}"
    if task in _ENCODING:  # a conversion may have lost the file that says so
        message += '; if its files mislead, `type = "embeddings"` in the settings says what it is'
    return Failure(Code.INVALID_REQUEST, message, param="model")
