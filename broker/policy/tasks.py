"""Which work a type of model does, so that a request for other work is refused before a process starts. Pure."""

from broker.policy.events import Fail, ModelSpec
from broker.protocol import NO_REQUEST

# Task of a REQUEST -> the types of model that do it; a type of its own, such as `echo`, generates.
_ENCODING = frozenset({"embed", "rerank"})
_ROUTES = {"generate": "/v1/chat/completions or /v1/completions", "embed": "/v1/embeddings", "rerank": "/v1/rerank"}


def wrong_task(spec: ModelSpec, task: str) -> Fail | None:
    """Why this model cannot do this task; None if it can."""
    if task not in _ROUTES:
        return Fail(NO_REQUEST, "invalid_request", f"there is no task {task!r}")
    encodes = spec.model_type == "embeddings"
    if (task in _ENCODING) == encodes:
        return None
    is_for = "/v1/embeddings or /v1/rerank" if encodes else _ROUTES["generate"]
    message = f"{spec.model_id} is a model of type {spec.model_type}: it serves {is_for}, not {_ROUTES[task]}"
    if task in _ENCODING:  # a conversion may have lost the file that says so
        message += '; if its files mislead, `type = "embeddings"` in the settings says what it is'
    return Fail(NO_REQUEST, "invalid_request", message, param="model")
