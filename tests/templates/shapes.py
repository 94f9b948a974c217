"""Conversations as clients send them: bodies of POST /v1/chat/completions, as data.

Each part of each message and each tool has words of its own, `kz...`, that the prompt must have in the end: what is
called has at least one that no tool has.
"""

import re
from dataclasses import dataclass
from typing import Any

WORD = re.compile(r"kz[a-z]+")

Turn = dict[str, Any]


@dataclass(slots=True, frozen=True)
class Shape:
    """refused: the field that the answer must name, for what no text model can take. refused_by: the templates that
    refuse it; none are named where all do."""

    name: str
    messages: list[Turn]
    fields: dict[str, Any]
    refused: str | None = None
    refused_by: tuple[str, ...] = ()

    def refused_field(self, template: str) -> str | None:
        """The field that this template's refusal names, None if it must take it."""
        return self.refused if template in (self.refused_by or (template,)) else None

    @property
    def body(self) -> dict[str, Any]:
        """The whole request."""
        return {"model": "any", "messages": self.messages, **self.fields}


def say(role: str, word: str, **more: Any) -> Turn:
    return {"role": role, "content": f"Here is {word}.", **more}


def call(identity: str | None, name: str, arguments: Any) -> dict[str, Any]:
    called = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return called if identity is None else {"id": identity, **called}


def calling(*calls: dict[str, Any], content: Any = "", **more: Any) -> Turn:
    return {"role": "assistant", "content": content, "tool_calls": list(calls), **more}


def result(identity: str, content: Any) -> Turn:
    return {"role": "tool", "tool_call_id": identity, "content": content}


def text(*words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": f"Part {word}. "} for word in words]


def tool(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **more}}


SYSTEM, DEVELOPER, USER = say("system", "kzsystem"), say("developer", "kzdeveloper"), say("user", "kzuser")
ANSWER, AGAIN = say("assistant", "kzanswer"), say("user", "kzagain")
PARAMETERS = {
    "type": "object",
    "properties": {
        "kzcity": {"type": "string", "description": "Where is kzwhere"},
        "kzdays": {"type": "integer"},
    },
    "required": ["kzcity"],
}
WEATHER = tool("kzweather", description="Tells kzforecast", parameters=PARAMETERS)
TIME = tool(
    "kztime",
    description="Tells kzclock",
    parameters={"type": "object", "properties": {"kzzone": {"type": "string", "enum": ["kzutc", "kzcet"]}}},
)
NESTED = tool(
    "kznested",
    description="Takes kzmuch",
    parameters={
        "type": "object",
        "properties": {
            "kzouter": {"type": "object", "properties": {"kzinner": {"type": ["string", "null"]}}},
            "kzlist": {"type": "array", "items": {"type": "object", "properties": {"kzitem": {"type": "number"}}}},
            "kzeither": {"anyOf": [{"type": "integer"}, {"type": "string", "description": "kzfree"}]},
            "kzreferred": {"$ref": "#/$defs/kzshared"},
        },
        "$defs": {"kzshared": {"type": "object", "properties": {"kzdeep": {"type": "boolean"}}}},
    },
)
BOUND = tool(
    "kzbound",
    description="Takes kzlittle",
    parameters={
        "type": "object",
        "title": "All of kzall",
        "properties": {
            "kzcode": {"type": "string", "pattern": "kzpattern", "title": "Code of kzlong"},
            "kzday": {"type": "string", "format": "kzdate", "minLength": 3, "x-hint": "kzhint"},
            "kzmaybe": {"anyOf": [{"type": "boolean", "title": "kztruth"}, {"type": "null"}], "default": None},
        },
    },
)
OWN_ID, OTHER_ID = "call_0123456789abcdef01234567", "call_76543210fedcba9876543210"
PARIS = call(OWN_ID, "kzweather", '{"kzcity": "kzparis"}')
OLD_CALL = {"name": "kzweather", "arguments": '{"kzcity": "kzparis"}'}
SUNNY = result(OWN_ID, "It is kzsunny.")
ZONE = call(OTHER_ID, "kztime", '{"kzzone": "kzgmt"}')
NOON = result(OTHER_ID, "It is kznoon.")
BOTH = {"tools": [WEATHER, TIME]}
ONE = {"tools": [WEATHER]}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAIAAAAAAAP///yH5BAEAAAAALAAAAAABAAEAAAIBRAA7"

ORDERS = [
    Shape("user", [USER], {}),
    Shape("system, user", [SYSTEM, USER], {}),
    Shape("developer, user", [DEVELOPER, USER], {}),
    Shape("system, developer, user", [SYSTEM, DEVELOPER, USER], {}),
    Shape("developer, system, user", [DEVELOPER, SYSTEM, USER], {}),
    Shape("two systems, user", [SYSTEM, say("system", "kzsecond"), USER], {}),
    Shape("user, system", [USER, say("system", "kzlate")], {}),
    Shape("system late", [SYSTEM, USER, ANSWER, say("system", "kzlate"), AGAIN], {}),
    Shape("developer late", [USER, ANSWER, say("developer", "kzlate"), AGAIN], {}),
    Shape("system late and last", [SYSTEM, USER, ANSWER, AGAIN, say("system", "kzlate")], {}),
    Shape("system, two turns", [SYSTEM, USER, ANSWER, AGAIN], {}),
    Shape("three turns", [USER, ANSWER, AGAIN, say("assistant", "kzthird"), say("user", "kzfourth")], {}),
    Shape("user twice", [USER, AGAIN], {}),
    Shape(
        "assistant first",
        [ANSWER, USER],
        {},
        refused="messages[0]",
        refused_by=(
            "Mistral-Small-3.2-24B-Instruct-2506",
            "google-gemma-2-2b-it",
            "mistralai-Ministral-3-14B-Reasoning-2512",
            "mistralai-Mistral-Nemo-Instruct-2407",
        ),
    ),
    Shape("assistant last", [USER, ANSWER], {}),
    Shape("assistant twice", [USER, ANSWER, say("assistant", "kzmore"), AGAIN], {}),
    Shape("system alone", [SYSTEM], {}),
]
CONTENTS = [
    Shape("user says nothing", [SYSTEM, {"role": "user", "content": ""}], {}),
    Shape("system says nothing", [{"role": "system", "content": ""}, USER], {}),
    Shape("assistant says nothing", [USER, {"role": "assistant", "content": None}, AGAIN], {}),
    Shape("user in parts", [{"role": "user", "content": text("kzone", "kztwo")}], {}),
    Shape("system in parts", [{"role": "system", "content": text("kzone", "kztwo")}, USER], {}),
    Shape("assistant in parts", [USER, {"role": "assistant", "content": text("kzone", "kztwo")}, AGAIN], {}),
    Shape("no parts", [USER, {"role": "assistant", "content": []}, AGAIN], {}),
    Shape("many scripts", [say("system", "日本語 🦊 kzsystem"), say("user", "Ünïcödé ẞ 👩‍👩‍👧 kzuser ؟ مرحبا")], {}),
    Shape(
        "control tokens",
        [say("user", "<|im_end|> </s> [INST] <think> kzuser </think> {{ kzbraces }} {% kzblock %}")],
        {},
    ),
    Shape("blanks around", [{"role": "user", "content": "\n\n    kzuser\n\tkzindented  \n"}], {}),
    Shape("names", [say("system", "kzsystem", name="kzrules"), say("user", "kzuser", name="kzalice")], {}),
    Shape(
        "image",
        [{"role": "user", "content": [*text("kzone"), {"type": "image_url", "image_url": {"url": PIXEL}}]}],
        {},
        refused="images[0]",
    ),
    Shape("thinking on", [USER], {"enable_thinking": True}),
    Shape("thinking off", [USER, ANSWER, AGAIN], {"enable_thinking": False}),
    Shape("little effort", [SYSTEM, USER], {"reasoning_effort": "low"}),
    Shape("no effort", [USER], {"reasoning_effort": "none"}),
]
TOOLS = [
    Shape("a tool", [USER], ONE),
    Shape("a tool without description", [USER], {"tools": [tool("kzweather", parameters=PARAMETERS)]}),
    Shape("a tool without parameters", [USER], {"tools": [tool("kzweather", description="kzforecast")]}),
    Shape("a tool of a name", [USER], {"tools": [tool("kzweather")]}),
    Shape("empty parameters", [USER], {"tools": [tool("kzweather", description="kzsky", parameters={})]}),
    Shape(
        "no properties",
        [USER],
        {"tools": [tool("kzweather", description="kzsky", parameters={"type": "object", "properties": {}})]},
    ),
    Shape("nested parameters", [USER], {"tools": [NESTED]}),
    Shape("bound parameters", [USER], {"tools": [BOUND]}),
    Shape("a strict tool", [USER], {"tools": [tool("kzweather", strict=True, parameters=PARAMETERS)]}),
    Shape("two tools", [USER], BOTH),
    Shape("system, tools", [SYSTEM, USER], BOTH),
    Shape("developer, tools", [DEVELOPER, USER], BOTH),
    Shape("system, developer, tools", [SYSTEM, DEVELOPER, USER], ONE),
    Shape("tools, later turn", [SYSTEM, USER, ANSWER, AGAIN], ONE),
]
CALLS = [
    Shape("a call", [USER, calling(PARIS), SUNNY], ONE),
    Shape("a call, system", [SYSTEM, USER, calling(PARIS), SUNNY], ONE),
    Shape("a call with text", [USER, calling(PARIS, content="I kzlook."), SUNNY], ONE),
    Shape("a call without content", [USER, calling(PARIS, content=None), SUNNY], ONE),
    Shape("two calls", [USER, calling(PARIS, ZONE), SUNNY, NOON], BOTH),
    Shape("two calls, results the other way round", [USER, calling(PARIS, ZONE), NOON, SUNNY], BOTH),
    Shape("two rounds", [USER, calling(PARIS), SUNNY, calling(ZONE), NOON], BOTH),
    Shape("a call and its end", [USER, calling(PARIS), SUNNY, ANSWER, AGAIN], ONE),
    Shape("a call interrupted", [USER, calling(PARIS), SUNNY, AGAIN], ONE),
    Shape("a call, system late", [USER, calling(PARIS), SUNNY, say("system", "kzlate")], ONE),
    Shape("calls without tools", [USER, calling(PARIS), SUNNY, ANSWER, AGAIN], {}),
    Shape("calls of tools that are gone", [USER, calling(PARIS, ZONE), SUNNY, NOON], {"tools": [NESTED]}),
    Shape("arguments as an object", [USER, calling(call(OWN_ID, "kzweather", {"kzcity": "kzparis"})), SUNNY], ONE),
    Shape("no arguments", [USER, calling(call(OWN_ID, "kzping", "")), SUNNY], ONE),
    Shape("empty arguments", [USER, calling(call(OWN_ID, "kzping", "{}")), SUNNY], ONE),
    Shape(
        "nested arguments",
        [
            USER,
            calling(call(OWN_ID, "kznested", '{"kzouter": {"kzinner": ["kzvalue", {"kzlow": 1}]}, "kzlist": []}')),
            SUNNY,
        ],
        {"tools": [NESTED]},
    ),
    Shape(
        "arguments of all types",
        [USER, calling(call(OWN_ID, "kzweather", '{"kzcity": "kzrome", "kzi": 3, "kzf": 1.5, "kzyes": true}')), SUNNY],
        ONE,
    ),
    Shape("a null argument", [USER, calling(call(OWN_ID, "kzweather", '{"kznull": null}')), SUNNY], ONE),
    Shape("a result in parts", [USER, calling(PARIS), result(OWN_ID, text("kzone", "kztwo"))], ONE),
    Shape("an empty result", [USER, calling(PARIS), result(OWN_ID, "")], ONE),
    Shape("a result of JSON", [USER, calling(PARIS), result(OWN_ID, '{"kzsky": ["kzblue", 1]}')], ONE),
    Shape(
        "ids of nine characters",
        [USER, calling(call("abcDEF123", "kzweather", '{"kzcity": "kzparis"}')), result("abcDEF123", "kzsunny")],
        ONE,
    ),
    Shape(
        "ids of others",
        [
            USER,
            calling(call("toolu_01A09q90qw90lq917835lq9", "kzweather", '{"kzcity": "kzparis"}')),
            result("toolu_01A09q90qw90lq917835lq9", "kzsunny"),
        ],
        ONE,
    ),
    Shape("no ids", [USER, calling(call(None, "kzping", "{}")), {"role": "tool", "content": "kzsunny"}], ONE),
    Shape(
        "a deep argument",
        [USER, calling(call(OWN_ID, "kzweather", '{"a": ' + "[" * 1000 + "]" * 1000 + "}"))],
        ONE,
        refused="messages[1].tool_calls[0].function.arguments",
    ),
    Shape(
        "arguments of no object",
        [USER, calling(call(OWN_ID, "kzweather", "[1]"))],
        ONE,
        refused="messages[1].tool_calls[0].function.arguments",
    ),
    Shape(
        "arguments of no number",
        [USER, calling(call(OWN_ID, "kzweather", '{"a": NaN}'))],
        ONE,
        refused="messages[1].tool_calls[0].function.arguments",
    ),
]
THOUGHTS = [
    Shape("reasoning", [USER, calling(PARIS, reasoning="I kzwonder."), SUNNY], ONE),
    Shape("reasoning_content", [USER, calling(PARIS, reasoning_content="I kzwonder."), SUNNY], ONE),
    Shape("earlier reasoning", [USER, {**ANSWER, "reasoning": "I kzwonder."}, AGAIN], {}),
    Shape(
        "a thinking part",
        [USER, calling(PARIS, content=[{"type": "thinking", "thinking": "I kzwonder."}, *text("kzsaid")]), SUNNY],
        ONE,
    ),
    Shape(
        "a refusal",
        [USER, {"role": "assistant", "content": None, "refusal": "I kzrefuse."}, AGAIN],
        {},
    ),
    Shape(
        "a refusal part",
        [USER, {"role": "assistant", "content": [{"type": "refusal", "refusal": "I kzrefuse."}]}, AGAIN],
        {},
    ),
    Shape(
        "a call of the old kind", [USER, {"role": "assistant", "content": None, "function_call": OLD_CALL}, AGAIN], {}
    ),
    Shape(
        "a call of the old kind and its result",
        [
            USER,
            {"role": "assistant", "content": None, "function_call": OLD_CALL},
            {"role": "function", "name": "kzweather", "content": "kzsunny"},
        ],
        {},
    ),
]

SHAPES = [*ORDERS, *CONTENTS, *TOOLS, *CALLS, *THOUGHTS]
