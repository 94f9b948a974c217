"""How a model samples, as a request says it or the settings do for requests that do not. Pure."""

from typing import Annotated, Any

from pydantic import ConfigDict, Field, JsonValue, PlainValidator

from gateway.core.validation import Body, Whole

MAX_INT = 2**63 - 1  # what the wire has room for
_MAX_BIASES = 1024
_MAX_FLOAT32 = 2.0**127


def _bias_of(bias: object) -> dict[str, float]:
    """OpenAI's logit_bias: token id as a string -> any number that MLX can add."""
    if not isinstance(bias, dict) or len(bias) > _MAX_BIASES:
        raise ValueError(f"must be an object with up to {_MAX_BIASES} token ids")
    for token, value in bias.items():
        if not (token.isascii() and token.isdigit()) or len(token) > 10:
            raise ValueError(f"{token!r} is no token id")
        if type(value) not in (int, float) or not abs(value) <= _MAX_FLOAT32:
            raise ValueError(f"the value of {token} is no number that fits 32 bits")
    return bias


class SamplingFields(Body):
    """The fields of both. None is not said."""

    max_tokens: Annotated[Whole, Field(ge=1, le=MAX_INT)] | None = None
    temperature: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[Whole, Field(ge=-1, le=MAX_INT)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_probability: Annotated[float, Field(ge=0, le=1)] | None = None
    xtc_threshold: Annotated[float, Field(ge=0, le=0.5)] | None = None
    repetition_penalty: Annotated[float, Field(ge=0, le=100)] | None = None
    repetition_context_size: Annotated[Whole, Field(ge=0, le=MAX_INT)] | None = None
    presence_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    presence_context_size: Annotated[Whole, Field(ge=0, le=MAX_INT)] | None = None
    frequency_penalty: Annotated[float, Field(ge=-100, le=100)] | None = None
    frequency_context_size: Annotated[Whole, Field(ge=0, le=MAX_INT)] | None = None
    logit_bias: Annotated[dict[str, float], PlainValidator(_bias_of)] | None = None

    def over(self, defaults: "Defaults") -> dict[str, Any]:
        """For the wire, where they have the same names: what is said here, else what `defaults` says. All but
        max_tokens, for which chats have one name more."""
        said = {name: getattr(self, name) for name in _ON_THE_WIRE}
        given = {name: getattr(defaults, name) if value is None else value for name, value in said.items()}
        return {name: value for name, value in given.items() if value is not None}


_ON_THE_WIRE = tuple(name for name in SamplingFields.model_fields if name != "max_tokens")


class Defaults(SamplingFields):
    """The table `[models."org/name".defaults]`."""

    model_config = ConfigDict(extra="forbid")

    chat_template_kwargs: dict[str, JsonValue] = Field(default_factory=dict)
