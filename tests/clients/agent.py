"""An engine that plays a model for client programs, and does what the user's last message says.

    CALL {"name": "weather", "arguments": {"city": "Paris"}}     calls this tool, if the request offers it
    anything else                                                says it once; orders of `tests.engines:Misbehaving`

After the result of a call it answers `The tool says: RESULT`. Named in settings as `tests.clients.agent:Agent`.
"""

import json
from dataclasses import replace
from typing import Any

from broker.wire.outputs import FINAL, PARTIAL, Output
from broker.wire.packing import pack, unpack
from broker.wire.to_workers import Assign
from broker.wire.work import Generate
from tests.engines import Misbehaving
from worker.chat.messages import plain_messages
from worker.echo.engine import echoed_text
from worker.engine import Report

_ORDER = "CALL "


class Agent(Misbehaving):
    """See the top of this file."""

    def __init__(self, assign: Assign, report: Report) -> None:
        super().__init__(assign, report)
        self._answers: dict[bytes, tuple[bool, dict[str, Any]]] = {}

    def add(self, request_id: bytes, payload: bytes) -> None:
        request = unpack(Generate, payload)
        answer = _answer(request)
        if answer is None:
            # To the end of the text, however many tokens the request allows.
            super().add(request_id, pack(replace(request, max_tokens=None)))
        else:
            self._answers[request_id] = request.stream, answer

    @property
    def has_work(self) -> bool:
        return bool(self._answers) or super().has_work

    def step(self) -> list[Output]:
        answers, self._answers = self._answers, {}
        outputs = []
        for request_id, (stream, body) in answers.items():
            if stream:
                outputs.append(Output(request_id, PARTIAL, body | {"prompt": {"tokens": 10, "cached": 0}}))
            outputs.append(Output(request_id, FINAL, _end({"text": ""} if stream else body, "tool_calls" in body)))
        return outputs + (super().step() if super().has_work else [])

    def cancel(self, request_id: bytes) -> None:
        self._answers.pop(request_id, None)
        super().cancel(request_id)


def _answer(request: Generate) -> dict[str, Any] | None:
    """The body of the answer; None for what the echo does."""
    if request.messages is None:
        return None
    last = plain_messages(request.messages)[-1]
    if last["role"] == "tool":
        return {"text": f"The tool says: {last['content']}"}
    order = echoed_text(request).partition(_ORDER)[2]
    if not order:
        return None
    call, _end = json.JSONDecoder().raw_decode(order)
    offered = [tool["function"]["name"] for tool in request.tools]
    if call["name"] not in offered:
        return {"text": f"There is no tool {call['name']}, only {', '.join(offered)}."}
    arguments = json.dumps(call["arguments"])
    return {"text": "", "tool_calls": [{"id": "call_1", "name": call["name"], "arguments": arguments}]}


def _end(body: dict[str, Any], calls: bool) -> dict[str, Any]:
    reason = "tool_calls" if calls else "stop"
    return {**body, "finish_reason": reason, "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 0}
