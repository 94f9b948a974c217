"""How models write calls, as what a grammar can be made of: the opposite of readers.py. Pure.

A shape says what stands between the marks of a CallFormat. Blanks may stand between its parts; a line break that is a
part of it must be there.
"""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(slots=True, frozen=True)
class ObjectCalls:
    """A JSON object with these keys, or several in a list or in lines. before, after: keys of texts that come
    first, and that may come last."""

    name: str = "name"
    arguments: str = "arguments"
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    in_list: bool = False
    in_lines: bool = False


@dataclass(slots=True, frozen=True)
class HeadedCalls:
    """A name before JSON arguments. calls: the ways to write one, with `{name}`, `{arguments}`, and `{id}` or
    `{number}` where any will do. between: stands between two calls; None where there is one alone."""

    calls: tuple[str, ...]
    between: str | None = ""


@dataclass(slots=True, frozen=True)
class TaggedCalls:
    """Each argument between tags, as it is. head, end: of a call; opening, close: of an argument; opening_of_text: of
    an argument that is a string, if that is another one. With `{name}` and `{key}`, and `{blanks}` where blanks may
    stand inside an opening. several: whether calls may follow each other. is_trimmed: a line break at an end of a text
    would be lost."""

    head: str
    opening: str
    close: str
    end: str
    opening_of_text: str | None = None
    several: bool = False
    is_trimmed: bool = False


@dataclass(slots=True, frozen=True)
class QuotedCalls:
    """Arguments in braces that are nearly JSON: a text stands between two of these quotes, as it is."""

    quote: str


Shape = ObjectCalls | HeadedCalls | TaggedCalls | QuotedCalls

_FUNCTIONS = TaggedCalls("<function={name}>", "<parameter={key}>\n", "\n</parameter>", "</function>")


def _invoked(prefix: str, string: str = "", other: str = "") -> TaggedCalls:
    opening = f'<{prefix}parameter name="{{key}}"'
    return TaggedCalls(
        f'<{prefix}invoke name="{{name}}">',
        f"{opening}{other}>",
        f"</{prefix}parameter>",
        f"</{prefix}invoke>",
        f"{opening}{string}>" if string else None,
        several=True,
    )


def _keyed(key: str, value: str, head: str = "{name}") -> TaggedCalls:
    return TaggedCalls(head, f"<{key}>{{key}}</{key}>{{blanks}}<{value}>", f"</{value}>", "")


# By the names of forms (formats.py). Calls of the others cannot be bound to a grammar.
SHAPES: dict[str, Shape] = {
    "cohere": ObjectCalls("tool_name", "parameters", ("tool_call_id",), in_list=True),
    "deepseek": HeadedCalls(
        (
            "<｜tool▁call▁begin｜>{name}<｜tool▁sep｜>{arguments}<｜tool▁call▁end｜>",
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{name}\n```json\n{arguments}\n```<｜tool▁call▁end｜>",
        )
    ),
    "dsml": _invoked("｜DSML｜", ' string="true"', ' string="false"'),
    "function_gemma": QuotedCalls("<escape>"),
    "functionary": HeadedCalls(("{name}>{arguments}",), between=None),
    "gemma4": QuotedCalls('<|"|>'),
    "generic": ObjectCalls(),
    "gigachat": ObjectCalls(),
    "glm47": _keyed("arg_key", "arg_value"),
    "granite": ObjectCalls(in_list=True),
    "harmony": HeadedCalls(
        tuple(
            f"=functions.{{name}}{channel}{kind}<|message|>{{arguments}}"
            for channel in ("", "<|channel|>commentary")
            for kind in ("", " ", " json", "<|constrain|>json", " <|constrain|>json")
        ),
        between=None,
    ),
    "hunyuan": _keyed("arg_key:opensource", "arg_value:opensource", "{name}<tool_sep:opensource>"),
    "json_tools": ObjectCalls(),
    "kimi_k2": HeadedCalls(
        ("<|tool_call_begin|>functions.{name}:{number}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>",)
    ),
    "longcat": _keyed("longcat_arg_key", "longcat_arg_value"),
    "minicpm5": TaggedCalls('"{name}">', '<param name="{key}">', "</param>", ""),
    "minimax_m2": _invoked(""),
    "mistral": HeadedCalls(("{name}[ARGS]{arguments}", "{name}[CALL_ID]{id}[ARGS]{arguments}"), "[TOOL_CALLS]"),
    "muse_spark": _invoked("atem:"),
    "nemotron": ObjectCalls(in_list=True),
    "qwen3_coder": _FUNCTIONS,
    "seed": TaggedCalls("<function={name}>", "<parameter={key}>", "</parameter>", "</function>", is_trimmed=True),
    "solar": HeadedCalls(("{id}<|tool_call:name|>{name}<|tool_call:args|>{arguments}",), between=None),
    "tool_calls": ObjectCalls(in_list=True, in_lines=True),
}

# What models of Mistral write that have no mark before arguments.
_LIST = ObjectCalls(after=("id",), in_list=True)


def shape_of(form: str, is_token: Callable[[str], bool]) -> Shape | None:
    """The shape of this form, None if its calls cannot be bound. is_token: whether a text is one token."""
    if form == "mistral" and not is_token("[ARGS]"):
        return _LIST
    return SHAPES.get(form)
