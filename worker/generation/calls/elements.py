"""Calls as nested elements, one for each argument, with the form of the value in the elements' names (MiniMax-M3).

`<invoke name="N"><city>Rome</city><days><item>1</item><item>2</item></days></invoke>`, each tag behind a mark.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from worker.generation.calls.typed import items_of, kind_of, parameters_of, property_of, typed

MARK = "]<]minimax[>["
_TAG = re.compile(re.escape(MARK) + r"<(?P<end>/?)(?P<name>[^<>\s]+)(?:\s+name=\"(?P<call>[^\"]*)\")?>")


@dataclass(slots=True)
class _Element:
    name: str
    call: str | None = None
    text: str = ""
    inner: list["_Element"] = field(default_factory=list)


def read_elements(text: str, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls in the text. Raises for elements that do not close."""
    calls = [element for element in _parsed(text) if element.name == "invoke"]
    return [{"name": call.call, "arguments": _arguments(call, tools)} for call in calls]


def _arguments(call: _Element, tools: list[dict[str, Any]]) -> dict[str, Any]:
    schema = parameters_of(call.call or "", tools)
    return {one.name: _value(one, property_of(schema, one.name, schema), schema) for one in call.inner}


def _value(element: _Element, schema: Any, root: dict[str, Any]) -> Any:
    kind = kind_of(schema, root)
    if not element.inner:
        empty = not element.text and "string" not in kind.types and "null" in kind.types
        return None if empty else typed(element.text, kind)
    if "array" in kind.types and all(one.name == "item" for one in element.inner):
        return [_value(one, items_of(schema, root), root) for one in element.inner]
    return {one.name: _value(one, property_of(schema, one.name, root), root) for one in element.inner}


def _parsed(text: str) -> list[_Element]:
    stack = [_Element("")]
    begin = 0
    for tag in _TAG.finditer(text):
        stack[-1].text += text[begin : tag.start()]
        begin = tag.end()
        if not tag["end"]:
            stack.append(_Element(tag["name"], tag["call"]))
            continue
        closed = stack.pop()
        if not stack or closed.name != tag["name"]:
            raise ValueError("an element does not close")
        stack[-1].inner.append(closed)
    if len(stack) > 1 or not stack[0].inner:
        raise ValueError("there is no whole call")
    return stack[0].inner
