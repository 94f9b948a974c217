"""What the catalog says about a model: its entry, or why it has none; and what the settings say about it. Data only."""

from dataclasses import dataclass, field
from typing import Any

from broker.policy.specs import ModelSpec
from broker.wire.failure import Code, Failure, FailureError


class CatalogError(FailureError):
    """There is no such model (MODEL_NOT_FOUND), or it cannot be used (LOAD_FAILED). fetchable: its name may be a
    repository's, and the Hugging Face cache does not hold all of it."""

    def __init__(self, code: Code, message: str, *, fetchable: bool = False) -> None:
        super().__init__(Failure(code, message))
        self.fetchable = fetchable


@dataclass(slots=True, frozen=True)
class ModelOverride:
    """What the settings file says about one model. engine: `module:Class`; a model with one needs no files."""

    model_type: str | None = None
    engine: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    keep_alive_seconds: float | None = None
    memory_limit_bytes: int | None = None
    recycle_after_requests: int = 0
    recycle_over_bytes: int = 0

    def spec(self, model_id: str, model_type: str, path: str, weight_bytes: int) -> ModelSpec:
        """The model with these facts, and what the settings add to them."""
        return ModelSpec(
            model_id,
            model_type,
            path,
            weight_bytes,
            self.engine,
            self.options,
            self.keep_alive_seconds,
            self.memory_limit_bytes,
            recycle_after_requests=self.recycle_after_requests,
            recycle_over_bytes=self.recycle_over_bytes,
        )


@dataclass(slots=True, frozen=True)
class BrokenEntry:
    """A folder that looks like a model and cannot be used. All three can be shown and sent, whatever the file system
    holds."""

    model_id: str
    path: str
    reason: str


@dataclass(slots=True, frozen=True)
class CatalogEntry:
    """One model as its files describe it. created: Unix seconds; context_length: tokens, 0 if unknown. capabilities:
    its tasks, and `tools`, `reasoning`, `infill`, `vision`, `audio`; architecture: `model_type` of config.json, or the
    family of an audio model; parameters: how many numbers its weights hold, None if the files do not say it."""

    spec: ModelSpec
    quantization: str | None
    context_length: int
    created: float
    capabilities: tuple[str, ...] = ()
    architecture: str | None = None
    parameters: int | None = None
