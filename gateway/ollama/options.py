"""The field `options` of Ollama's requests -> sampling fields of the wire. Pure.

Options that only say how Ollama loads a model change no answer here, and mirostat and its like are not served: these
are left out and named. Options that a request leaves out have the defaults of the settings, not Ollama's.
"""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, PlainValidator

from gateway.core.sampling import MAX_INT, Defaults, SamplingFields
from gateway.core.validation import WHOLE, RequestBody
from gateway.ollama.shapes import OllamaStops

_MAX_STOPS = 64  # programs that complete code send twenty

# Values of options that are left out, and that change nothing.
_WITHOUT_EFFECT: dict[str, Any] = {"mirostat": 0, "tfs_z": 1}


def _stops_of(stop: object) -> list[str]:
    stops = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stops, list) or len(stops) > _MAX_STOPS or not all(isinstance(s, str) and s for s in stops):
        raise ValueError(f"must be a list of up to {_MAX_STOPS} strings that are not empty")
    return stops


class OllamaOptions(RequestBody):
    """None: not given. The others are in `left_out`."""

    model_config = ConfigDict(extra="allow")

    num_predict: Annotated[int, Field(ge=-MAX_INT, le=MAX_INT), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT), WHOLE] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: Annotated[int, Field(ge=-MAX_INT - 1, le=MAX_INT), WHOLE] | None = None
    stop: Annotated[list[str], PlainValidator(_stops_of, json_schema_input_type=OllamaStops)] = Field(
        default_factory=list
    )
    repeat_penalty: Annotated[float, Field(ge=0, le=100)] | None = None
    repeat_last_n: Annotated[int, Field(ge=-1, le=MAX_INT), WHOLE] | None = None
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None

    @property
    def left_out(self) -> list[str]:
        """The names of those that change no text here."""
        others = self.model_extra or {}
        return _named({name: value for name, value in others.items() if value != _WITHOUT_EFFECT.get(name)})

    @property
    def stated(self) -> list[str]:
        """The names of all that are given: none changes a vector."""
        return _named(dict(self))


def _named(options: dict[str, Any]) -> list[str]:
    return [f"options.{name}" for name, value in options.items() if value not in (None, [])]


def sampling(options: OllamaOptions, defaults: Defaults) -> dict[str, Any]:
    """For the wire, max_tokens included."""
    limit = options.num_predict
    # -1 and -2 are "no limit": to the end of the context, or of the memory if that comes first.
    stated = limit if limit is not None and limit > 0 else None
    return {
        **_common(options).over(defaults),
        "max_tokens": stated if limit is not None else defaults.max_tokens,
        "max_tokens_is_default": stated is None,
        # Ollama's -1 is "any".
        "seed": None if options.seed == -1 else options.seed,
        "stop": options.stop,
    }


def _common(options: OllamaOptions) -> SamplingFields:
    """What the settings have too. repeat_last_n bounds all three penalties: 0 switches them off, -1 is the whole
    context."""
    given = {
        "temperature": options.temperature,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "repetition_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
    }
    kinds = ("repetition", "presence", "frequency")
    last = options.repeat_last_n
    if last == 0:
        given |= {f"{kind}_penalty": 0.0 for kind in kinds}
    elif last is not None:
        given |= {f"{kind}_context_size": max(last, 0) for kind in kinds}
    return SamplingFields(**given)  # type: ignore[arg-type] # checked by the fields above
