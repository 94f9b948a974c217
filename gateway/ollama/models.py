"""Models as Ollama lists, shows and reports them."""

from collections.abc import Iterable
from datetime import UTC, datetime
from hashlib import sha256

from gateway.core.administration import ListedModel, ModelReport
from gateway.core.sampling import Defaults
from gateway.ollama.dialect import tagged

Object = dict[str, object]

# What Ollama says of a model that stays for good.
_FOR_GOOD = datetime(2300, 1, 1, tzinfo=UTC)
_BILLION, _MILLION = 10**9, 10**6

# Capabilities of the wire in Ollama's words; it has none for reranking and for speech.
_CAPABILITIES = {
    "generate": "completion",
    "tools": "tools",
    "infill": "insert",
    "vision": "vision",
    "embed": "embedding",
    "reasoning": "thinking",
    "audio": "audio",
    "transcribe": "audio",
}

# The names of the settings' default values as parameters of Ollama's.
_PARAMETERS = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
    "repetition_context_size": "repeat_last_n",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "max_tokens": "num_predict",
}


def list_entry(name: str, model: ListedModel) -> Object:
    """One of /api/tags. name: of the model, or another name that the settings give it."""
    return {
        "name": tagged(name),
        "model": tagged(name),
        "modified_at": _time(model.created),
        "size": model.size_bytes,
        "digest": digest_of(model),
        "details": details_of(model),
        "capabilities": capabilities_of(model),
    }


def running_entry(report: ModelReport, model: ListedModel | None) -> Object:
    """One of /api/ps. model: the same in the list of all, None for one without usable files."""
    leaves = _FOR_GOOD if report.idle_until is None else datetime.fromtimestamp(report.idle_until, UTC)
    return {
        "name": tagged(report.model_id),
        "model": tagged(report.model_id),
        "size": report.size_bytes,
        "digest": sha256(report.model_id.encode()).hexdigest() if model is None else digest_of(model),
        "details": details_of(model),
        "expires_at": leaves.isoformat(),
        "size_vram": report.size_bytes,
        "context_length": 0 if model is None else model.context_length,
    }


def shown(asked: str, model: ListedModel, defaults: Defaults) -> Object:
    """The answer of /api/show. asked: the name that the client knows."""
    capabilities = capabilities_of(model)
    return {
        "license": "",
        "modelfile": f"# mlx-broker serves this model from its own files\nFROM {model.model_id}\n",
        "parameters": "\n".join(_parameters(defaults)),
        # Of the templates of Ollama's form clients read only whether they can fill in the middle.
        "template": "{{ .Prompt }}{{ .Suffix }}" if "insert" in capabilities else "{{ .Prompt }}",
        "details": details_of(model),
        "model_info": info_of(asked, model),
        "capabilities": capabilities,
        "modified_at": _time(model.created),
    }


def info_of(asked: str, model: ListedModel) -> Object:
    """What is known of model_info."""
    family = _family(model)
    facts: Object = {"general.architecture": family, "general.basename": asked}
    if model.parameters:
        facts["general.parameter_count"] = model.parameters
    if model.context_length:
        facts[f"{family}.context_length"] = model.context_length
    return facts


def details_of(model: ListedModel | None) -> Object:
    """None: nothing is known."""
    family = "" if model is None else _family(model)
    return {
        "parent_model": "",
        "format": "safetensors",
        "family": family,
        "families": [family],
        "parameter_size": "" if model is None else _count(model.parameters or 0),
        "quantization_level": "" if model is None else model.quantization or "",
    }


def capabilities_of(model: ListedModel) -> list[str]:
    """In Ollama's words and order."""
    return [own for name, own in _CAPABILITIES.items() if name in model.capabilities]


def digest_of(model: ListedModel) -> str:
    """Another one when the model's files are others, as far as the list of models tells."""
    return sha256(f"{model.model_id} {model.size_bytes} {model.created}".encode()).hexdigest()


def _family(model: ListedModel) -> str:
    return model.architecture or model.model_type


def _time(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


def _count(parameters: int) -> str:
    """`7.6B`, `135M`, or nothing if it is not known."""
    if not parameters:
        return ""
    return f"{parameters / _BILLION:.1f}B" if parameters >= _BILLION else f"{parameters / _MILLION:.0f}M"


def _parameters(defaults: Defaults) -> Iterable[str]:
    for name, own in _PARAMETERS.items():
        value = getattr(defaults, name)
        if value is not None:
            yield f"{own:<30} {value}"
