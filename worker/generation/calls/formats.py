"""Which form a model's tool calls have: by the text of its chat template and its vocabulary, never by its name.

mlx-lm knows some families by itself. Others are in the table here; so are those where mlx-lm's own readers
lose digits, blanks, types or ids.
"""

# ruff: noqa: RUF001 # DeepSeek's marks have a bar of full width

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from worker.generation.calls import readers
from worker.generation.calls.elements import MARK, read_elements
from worker.generation.calls.harmony import is_harmony, read_message


@dataclass(slots=True, frozen=True)
class CallFormat:
    """start, end: the marks around calls, which are no part of what `read` gets; without an end they go on to the end
    of the answer. openings: instead of marks, how an answer begins that is nothing but calls, without its blanks."""

    name: str
    start: str
    end: str
    read: readers.Reader
    openings: tuple[str, ...] = ()


# What a model is told to write whose template has no form for tools.
GENERIC = CallFormat("generic", "<tool_call>", "</tool_call>", readers.read_json)

HARMONY = CallFormat("harmony", "", "", read_message)

_BARE = tuple(f'{{"{key}"' for key in ("name", "type", "function", "parameters"))
_DEEPSEEK = readers.headed(
    r"<｜tool▁call▁begin｜>\s*+(?:function<｜tool▁sep｜>)?(?P<name>[^\s<]++)\s*+(?:<｜tool▁sep｜>|```json)",
    r"\s*+(?:```)?+\s*+<｜tool▁call▁end｜>",
)
_DSML = readers.invoked("｜DSML｜", r'\s++string="(?P<string>true|false)"')
_SOLAR = readers.headed(
    r"(?P<id>(?>.*?(?=<\|tool_call:name\|>)))<\|tool_call:name\|>"
    r"(?P<name>(?>.*?(?=<\|tool_call:args\|>)))<\|tool_call:args\|>"
)
_FUNCTION = readers.headed(r"(?P<name>[^>\s]++)>")
_HUNYUAN = readers.key_value("arg_key:opensource", "arg_value:opensource", "<tool_sep:opensource>")

# What the template or the vocabulary must have, all of it, and the form. The first that fits counts.
_KNOWN = (
    ((f"{MARK[:-2]}",), CallFormat("elements", f"{MARK}<tool_call>", f"{MARK}</tool_call>", read_elements)),
    (("<｜tool▁calls▁begin｜>",), CallFormat("deepseek", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", _DEEPSEEK)),
    (
        ("｜DSML｜", "function_calls>"),
        CallFormat("dsml", "<｜DSML｜function_calls>", "</｜DSML｜function_calls>", _DSML),
    ),
    (("｜DSML｜", "tool_calls>"), CallFormat("dsml", "<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>", _DSML)),
    (("<seed:tool_call>",), CallFormat("seed", "<seed:tool_call>", "</seed:tool_call>", readers.read_functions)),
    (("<|START_ACTION|>",), CallFormat("cohere", "<|START_ACTION|>", "<|END_ACTION|>", readers.read_json)),
    (("<|function_call|>", "<|message_sep|>"), CallFormat("gigachat", "<|function_call|>", "", readers.read_json)),
    (
        ("function call", "<|role_sep|>"),
        CallFormat("gigachat", "<|message_sep|>\n\nfunction call<|role_sep|>\n", "", readers.read_json),
    ),
    (("<TOOLCALL>",), CallFormat("nemotron", "<TOOLCALL>", "</TOOLCALL>", readers.read_json)),
    (("<tool_calls>",), CallFormat("tool_calls", "<tool_calls>", "</tool_calls>", readers.read_json)),
    (("<|tools_prefix|>",), CallFormat("apertus", "<|tools_prefix|>", "<|tools_suffix|>", readers.read_keyed_json)),
    (("<|tool_call:begin|>",), CallFormat("solar", "<|tool_call:begin|>", "<|tool_call:end|>", _SOLAR)),
    (
        ("<tool_sep{}>", ":opensource"),
        CallFormat("hunyuan", "<tool_call:opensource>", "</tool_call:opensource>", _HUNYUAN),
    ),
    (
        ('{"name": function name, "parameters": dictionary of argument name and its value}',),
        CallFormat("llama3", "", "", readers.read_bare_json, (*_BARE, "<|python_tag|>{")),
    ),
)

# Readers of ours for families that mlx-lm finds, by the name of its parser.
_READERS: dict[str, readers.Reader] = {
    "json_tools": readers.read_json,
    "qwen3_coder": readers.read_functions,
    "glm47": readers.key_value("arg_key", "arg_value"),
    "longcat": readers.key_value("longcat_arg_key", "longcat_arg_value"),
    "minimax_m2": readers.invoked(""),
    "minicpm5": readers.read_params,
    "muse_spark": readers.invoked("atem:"),
    "mistral": readers.read_mistral,
    "gemma4": readers.read_gemma,
    "pythonic": readers.read_pythonic,
}

# Templates that say so of a form that others only contain.
_LAST = (
    (("<function=", "</function>"), CallFormat("functionary", "<function=", "</function>", _FUNCTION)),
    (("<|tool_call|>",), CallFormat("granite", "<|tool_call|>", "", readers.read_json)),
    (("<tool_call>",), GENERIC),
)


def call_format(tokenizer: Any) -> CallFormat | None:
    """None for a model whose calls have no known form. tokenizer: mlx-lm's TokenizerWrapper."""
    if is_harmony(tokenizer):
        return HARMONY
    template = tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else ""
    found = _first(_KNOWN, template, tokenizer)
    if found is not None:
        return found
    if tokenizer.has_tool_calling:
        parse = tokenizer.tool_parser
        name = parse.__module__.rpartition(".")[2]
        return CallFormat(name, tokenizer.tool_call_start, tokenizer.tool_call_end, _READERS.get(name, parse))
    return _first(_LAST, template, tokenizer)


_Table = Sequence[tuple[tuple[str, ...], CallFormat]]


def _first(table: _Table, template: str, tokenizer: Any) -> CallFormat | None:
    vocabulary = tokenizer.get_vocab()
    for marks, known in table:
        if all(mark in template or mark in vocabulary for mark in marks):
            return known
    return None
