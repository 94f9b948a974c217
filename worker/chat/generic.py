"""The generic form of tools: what is called and what comes back as text, for templates that cannot write it.

Tools are described in the system turn, calls are JSON in `<tool_call>` tags, results are in user turns. Most models
know this form, which Hermes began and Qwen has, and mlx-lm's parser `json_tools` reads the calls back. Free of mlx.
"""

import json
from dataclasses import replace
from itertools import takewhile
from typing import Any

from worker.chat.chat import Chat
from worker.chat.forms import alternating, instructions_in_place, joined
from worker.chat.messages import INSTRUCTING, THOUGHT_NAMES, Turn

_TOOLS = """# Tools

You may call one or more functions to assist with the user query.

You are provided with function signatures within <tools></tools> XML tags:
<tools>
{tools}
</tools>

For each function call, return a json object with function name and arguments within <tool_call></tool_call> XML tags:
<tool_call>
{{"name": <function-name>, "arguments": <args-json-object>}}
</tool_call>"""


def generic(chat: Chat) -> Chat:
    """A chat of system, user and assistant turns alone."""
    turns: list[Turn] = []
    order: dict[str, int] = {}
    results: list[Turn] = []
    for turn in chat.turns:
        if turn["role"] == "tool":
            results.append(turn)
            continue
        turns += _answered(results, order)
        results = []
        if calls := turn.get("tool_calls"):
            order = {call["id"]: number for number, call in enumerate(calls)}
            written = "\n".join(_call(call["function"]) for call in calls)
            turns.append({"role": turn["role"], "content": joined(turn["content"], written)})
        else:
            turns.append({key: turn[key] for key in ("role", "content", *THOUGHT_NAMES) if key in turn})
    turns += _answered(results, order)
    if chat.tools:
        signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in chat.tools)
        # Behind the system's own words, which begin as they would without tools.
        place = sum(1 for _ in takewhile(lambda turn: turn["role"] in INSTRUCTING, turns))
        turns.insert(place, {"role": "system", "content": _TOOLS.format(tools=signatures)})
    return alternating(instructions_in_place(replace(chat, turns=turns, tools=None)))


def generic_in_user_turn(chat: Chat) -> Chat:
    """The same without a system turn: its text begins the first user turn."""
    plain = generic(chat)
    if not plain.turns or plain.turns[0]["role"] != "system":
        return plain
    system, *others = plain.turns
    return alternating(replace(plain, turns=[{"role": "user", "content": system["content"]}, *others]))


def _answered(results: list[Turn], order: dict[str, int]) -> list[Turn]:
    """The results in the order of their calls, which is all that says what belongs to what."""
    ordered = sorted(results, key=lambda turn: order.get(turn["tool_call_id"], len(order)))
    return [{"role": "user", "content": _response(turn["content"])} for turn in ordered]


def _response(content: Any) -> Any:
    if isinstance(content, str):
        return f"<tool_response>\n{content}\n</tool_response>"
    begin, end = ({"type": "text", "text": f"<{mark}tool_response>"} for mark in ("", "/"))
    return [begin, *content, end]


def _call(function: dict[str, Any]) -> str:
    said = json.dumps({"name": function["name"], "arguments": function["arguments"]}, ensure_ascii=False)
    return f"<tool_call>\n{said}\n</tool_call>"
