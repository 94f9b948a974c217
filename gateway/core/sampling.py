"""How a model samples: fields of a request, and default values from the settings for those it leaves out. Pure."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, PlainValidator

from gateway.core.validation import WHOLE, RequestBody

MAX_INT = 2**63 - 1  # the largest integer that fits on the wire
_MAX_BIASES = 1024
_MAX_FLOAT32 = 2.0**127


def _bias_of(bias: object) -> dict[str, float]:
    """OpenAI's logit_bias: token id as a string -> any number that MLX can add."""
    if not isinstance(bias, dict) or len(bias) > _MAX_BIASES:
        raise ValueError(f"must be an object with up to {_MAX_BIASES} token ids")
    for token, value in bias.items():
        if not (token.isascii() and token.isdigit()) or len(token) > 10:
            raise ValueError(f"{token!r} is not a token id")
        if type(value) not in (int, float) or not abs(value) <= _MAX_FLOAT32:
            raise ValueError(f"the value of {token} must be a number that fits into 32 bits")
    return bias


_Biases = Annotated[
    dict[
        Annotated[str, Field(pattern="^[0-9]{1,10}$")],
        Annotated[float, Field(ge=-_MAX_FLOAT32, le=_MAX_FLOAT32)],
    ],
    Field(max_length=_MAX_BIASES, json_schema_extra={"additionalProperties": False}),
]


class SamplingFields(RequestBody):
    """The fields that requests and settings share. None: not given."""

    max_tokens: Annotated[int, Field(ge=1, le=MAX_INT), WHOLE] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, le=MAX_INT), WHOLE] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[float, Field(ge=0, le=0.5)] | None = None
    top_n_sigma: Annotated[float, Field(ge=-1, allow_inf_nan=False)] | None = None
    typical_p: Annotated[float, Field(gt=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0, le=100)] | None = None
    repetition_context_size: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    presence_context_size: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    frequency_context_size: Annotated[int, Field(ge=0, le=MAX_INT), WHOLE] | None = None
    logit_bias: Annotated[dict[str, float], PlainValidator(_bias_of, json_schema_input_type=_Biases)] | None = None

    def over(self, defaults: "Defaults") -> dict[str, Any]:
        """For the wire, which has the same names: these values, and `defaults` where one is not given. Without
        max_tokens, which has two names in chats."""
        filled = {}
        for name in _ON_THE_WIRE:
            value = getattr(self, name)
            if value is None:
                value = getattr(defaults, name)
            if value is not None:
                filled[name] = value
        return filled


_ON_THE_WIRE = tuple(name for name in SamplingFields.model_fields if name != "max_tokens")


class Defaults(SamplingFields):
    """The table `[models."org/name".defaults]`."""

    model_config = ConfigDict(extra="forbid")

    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)


def effort_variables(effort: str | None) -> dict[str, Any]:
    """How hard a model shall think, as the variables of its template; the template decides what it makes of them."""
    if effort is None:
        return {}
    return {"enable_thinking": False} if effort == "none" else {"enable_thinking": True, "reasoning_effort": effort}


def merged(first: Defaults, then: Defaults) -> Defaults:
    """The first ones, and where they leave something out, the others. Of variables for the template too."""
    given = {name: value for name in Defaults.model_fields if (value := getattr(first, name)) is not None}
    given["chat_template_kwargs"] = then.chat_template_kwargs | first.chat_template_kwargs
    return then.model_copy(update=given)
