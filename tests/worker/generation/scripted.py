"""A text engine that says what a test has written down."""

import json
from pathlib import Path
from typing import Any

from tests.scripted_model import make_scripted_model
from tests.tiny_models import CHAT_TEMPLATE
from tests.worker.engine_runs import joined, load, run
from worker.chat.words import is_plain_id
from worker.text.engine import TextEngine

USER = {"role": "user", "content": "Weather in Paris?"}

WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"enum": ["Paris", "Rome"]}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}

TIME = {"type": "function", "function": {"name": "time"}}

THINK_TEMPLATE = CHAT_TEMPLATE.replace("[assistant]{{ suffix or '' }} ", "[assistant]<think>")

TOOL_TEMPLATE = (
    "{% if tools %}[tools] {{ tools | tojson }} {% endif %}"
    "{% for m in messages %}[{{ m['role'] }}] {{ m['content'] }}"
    "{% for c in m.tool_calls or [] %}{{ c.function.name }}:{{ c.function.arguments | tojson }}{% endfor %}"
    " {% endfor %}"
    "[assistant] "
)

TAGS = ("<think>", "</think>", "<tool_call>", "</tool_call>")

CALL = ("<tool_call>", '{"name": "weather", ', '"arguments":', ' {"city": "Paris"}}', "</tool_call>")


def scripted(folder: Path, *pieces: str, **options: Any) -> TextEngine:
    options = {"tags": TAGS, "tool_parser": "json_tools", "chat_template": TOOL_TEMPLATE, **options}
    return load(make_scripted_model(folder, pieces, **options))


def parts(engine: TextEngine, **fields: Any) -> dict[str, Any]:
    """The answer, which is the same streamed and not streamed, and alone and in company."""
    request = {"messages": [USER], "temperature": 0.0, "max_tokens": 200, **fields}
    whole, streamed, _, _ = run(engine, [request, {**request, "stream": True}, request, {**request, "max_tokens": 3}])
    assert len(whole) == 1
    got = joined(whole)
    first, second = (
        {
            **{name: value for name, value in one.items() if name != "cached_tokens"},
            "tool_calls": [(call["name"], json.loads(call["arguments"])) for call in one.get("tool_calls", [])],
        }
        for one in (got, joined(streamed))
    )
    assert first == second
    assert all(is_plain_id(call["id"]) for call in got.get("tool_calls", []))
    return first
