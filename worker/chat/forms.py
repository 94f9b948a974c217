"""The forms that a chat can take so that a template writes all of it. Chats in, chats out; free of mlx."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import count, takewhile
from typing import Any

from worker.chat.chat import Chat
from worker.chat.messages import INSTRUCTING, Turn
from worker.chat.words import is_plain_id

Change = Callable[[Chat], Chat]

# Around an instruction in another's turn; agents use this mark, and models know it.
_LATE = "<system-reminder>\n{}\n</system-reminder>"


def plain_ids(chat: Chat) -> Chat:
    """With ids of calls in the form that every template takes, the same for a call and its result."""
    sent = {call["id"] for turn in chat.turns for call in turn.get("tool_calls", ())}
    sent |= {turn["tool_call_id"] for turn in chat.turns if turn["role"] == "tool"}
    fresh = (made for made in map("call{:05d}".format, count()) if made not in sent)
    ids: dict[str, str] = {}

    def plain(identity: str) -> str:
        if is_plain_id(identity):
            return identity
        if identity not in ids:
            ids[identity] = next(fresh)
        return ids[identity]

    turns = []
    for turn in chat.turns:
        changed = dict(turn)
        if calls := turn.get("tool_calls"):
            changed["tool_calls"] = [{**call, "id": plain(call["id"])} for call in calls]
        if turn["role"] == "tool":
            changed["tool_call_id"] = plain(turn["tool_call_id"])
        turns.append(changed)
    return replace(chat, turns=turns)


def instructions_in_place(chat: Chat) -> Chat:
    """With what instructs at the beginning in one system turn, and every later instruction where it stands, marked:
    at the head of the user turn behind it, else at the end of the user turn or the results before it, else in a user
    turn of its own.
    So the prompt stays the same up to there."""
    first = list(takewhile(_instructs, chat.turns))
    said = [turn["content"] for turn in first if turn["content"]]
    turns: list[Turn] = [{"role": "system", "content": "\n\n".join(said)}] if said else []
    late: list[str] = []
    for turn in chat.turns[len(first) :]:
        if _instructs(turn):
            late += [_LATE.format(turn["content"])] if turn["content"] else []
        elif turn["role"] == "tool":  # results stay with their calls
            turns.append(turn)
        elif turn["role"] == "user" and late:
            turns.append({**turn, "content": joined("\n\n".join(late), turn["content"])})
            late = []
        else:
            _put_last(turns, late)
            turns.append(turn)
            late = []
    _put_last(turns, late)
    return replace(chat, turns=turns)


def without_late_instructions(chat: Chat) -> Chat:
    """With what instructs at the beginning only."""
    first = list(takewhile(_instructs, chat.turns))
    return replace(chat, turns=first + [turn for turn in chat.turns[len(first) :] if not _instructs(turn)])


def _instructs(turn: Turn) -> bool:
    return turn["role"] in INSTRUCTING


def _put_last(turns: list[Turn], late: list[str]) -> None:
    """No second user turn, which a model would answer instead of the first. None behind results either: templates cut
    out earlier reasoning at the last user turn."""
    if not late:
        return
    text = "\n\n".join(late)
    if turns and turns[-1]["role"] in ("user", "tool"):
        turns[-1] = {**turns[-1], "content": joined(turns[-1]["content"], text)}
    else:
        turns.append({"role": "user", "content": text})


def alternating(chat: Chat) -> Chat:
    """With neighbours of one role in one turn, and without answers that say nothing."""
    turns: list[Turn] = []
    for turn in chat.turns:
        if turn["role"] == "assistant" and not any(value for key, value in turn.items() if key != "role"):
            continue
        last = turns[-1] if turns else None
        if last and turn["role"] == last["role"] and turn["role"] in ("user", "assistant") and not _calls(turn, last):
            turns[-1] = {**last, "content": joined(last["content"], turn["content"])}
        else:
            turns.append(turn)
    return replace(chat, turns=turns)


def one_call_each(chat: Chat) -> Chat:
    """With each call in a turn of its own and its result behind it, and text beside calls in a turn before."""
    turns: list[Turn] = []
    position = 0
    while position < len(chat.turns):
        turn = chat.turns[position]
        position += 1
        calls = turn.get("tool_calls")
        if not calls:
            turns.append(turn)
            continue
        results: dict[str, list[Turn]] = {}
        while position < len(chat.turns) and chat.turns[position]["role"] == "tool":
            results.setdefault(chat.turns[position]["tool_call_id"], []).append(chat.turns[position])
            position += 1
        if turn["content"]:
            turns.append({"role": turn["role"], "content": turn["content"]})
        for number, call in enumerate(calls):
            # The reasoning was before the first.
            kept = turn if number == 0 else {"role": turn["role"]}
            turns.append({**kept, "content": "", "tool_calls": [call]})
            turns += results.pop(call["id"], ())
        turns += [result for some in results.values() for result in some]
    return replace(chat, turns=turns)


def text_arguments(chat: Chat) -> Chat:
    """With arguments as the JSON text that clients send."""
    turns = []
    for turn in chat.turns:
        calls = [_with_arguments(call, _json(call["function"]["arguments"])) for call in turn.get("tool_calls", ())]
        turns.append({**turn, "tool_calls": calls} if calls else turn)
    return replace(chat, turns=turns)


def schemas_described(chat: Chat) -> Chat:
    """With the schema of each tool in its description as well, for templates that write parts of a schema only."""
    tools = []
    for tool in chat.tools or ():
        function = tool["function"]
        described = (
            f"{function['description']}\n\nJSON schema of the parameters: {_json(function['parameters'])}".strip()
        )
        tools.append({**tool, "function": {**function, "description": described}})
    return replace(chat, tools=tools or None)


def empty_tools(chat: Chat) -> Chat:
    """With an empty list of tools, for templates that go through it without asking."""
    return replace(chat, tools=chat.tools or [])


def thinking_parts(chat: Chat) -> Chat:
    """With reasoning as a part of the content."""
    turns = []
    for turn in chat.turns:
        thought, content = turn.get("reasoning_content"), turn["content"]
        if thought and isinstance(content, str):
            said = [{"type": "text", "text": content}] if content else []
            turns.append({**turn, "content": [{"type": "thinking", "thinking": thought}, *said]})
        else:
            turns.append(turn)
    return replace(chat, turns=turns)


def joined(one: Any, other: Any) -> Any:
    """Two contents as one: a paragraph each, or the parts of both."""
    if isinstance(one, str) and isinstance(other, str):
        return "\n\n".join(text for text in (one, other) if text)
    return [*_parts(one), *_parts(other)]


def _parts(content: Any) -> list[Any]:
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _calls(*turns: Turn) -> bool:
    return any(turn.get("tool_calls") for turn in turns)


def _with_arguments(call: dict[str, Any], arguments: Any) -> dict[str, Any]:
    return {**call, "function": {**call["function"], "arguments": arguments}}


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
