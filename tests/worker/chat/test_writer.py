"""A chat takes the first form in which its template writes all of it."""

from typing import Any

import jinja2
import pytest

from broker.wire.failure import Code, Failure, FailureError
from broker.wire.work import Generate
from tests.timing import cpu_seconds
from worker.chat.chat import Chat, chat_of
from worker.chat.messages import plain_messages
from worker.chat.writer import ChatWriter, Form

USER = {"role": "user", "content": "Weather?"}
CALL: dict[str, Any] = {"id": "call_0123456789abcdef", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
CALLING: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": CALL["id"], "content": "sunny"}
WEATHER = {"type": "function", "function": {"name": "weather"}}

LAX = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
FIRST_SYSTEM = (
    "{% for m in messages %}{% if m.role != 'system' or loop.first %}[{{ m.role }}]{{ m.content }}{% endif %}"
    "{% endfor %}"
)
WIZARD = "{% for m in messages %}{% if m.role == 'wizard' %}{{ nothing.there }}{% endif %}{{ m.content }}{% endfor %}"
NATIVE = (
    "{% for t in tools or [] %}<{{ t | tojson }}>{% endfor %}{% for m in messages %}[{{ m.role }}]{{ m.content }}"
    "{% for c in m.tool_calls or [] %}{% if c.id | length != 9 %}{{ nothing.there }}{% endif %}"
    "{{ c.id }}={{ c.function | tojson }}{% endfor %}{% endfor %}"
)
# Writes of each tool what is usual.
USUAL = (
    "{% for t in tools or [] %}{% set f = t.function %}{{ f.name }}: {{ f.description }}"
    "{% for name, p in f.parameters.properties.items() %}"
    "({{ name }}{{ '' if name in (f.parameters.required or []) else '?' }}: "
    "{{ p.type }} {{ p.description }} {{ p.enum }}){% endfor %}{% endfor %}"
    "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% for c in m.tool_calls or [] %}{{ c.function }}{% endfor %}"
    "{% endfor %}"
)


class Template:
    """Counts its renderings."""

    def __init__(self, text: str) -> None:
        self.count = 0
        self._template = jinja2.Environment(autoescape=False).from_string(text)  # noqa: S701

    def __call__(self, chat: Chat, *, tokenize: bool, asks: bool) -> Any:
        self.count += 1
        return self._template.render(messages=chat.turns, **{"tools": None, **chat.variables})


def write(writer: ChatWriter, messages: list[Any], **fields: Any) -> tuple[str, Form]:
    request = Generate(messages=messages, **fields)
    chat = chat_of(request, plain_messages(messages))
    form = writer.form(chat)
    return writer.render(form, form.apply(chat), tokenize=False), form


def failure(writer: ChatWriter, messages: list[Any], **fields: Any) -> Failure:
    with pytest.raises(FailureError) as caught:
        write(writer, messages, **fields)
    return caught.value.failure


def test_a_chat_that_the_template_writes_stays_as_it_came() -> None:
    text, form = write(ChatWriter([Template(LAX)]), [{"role": "system", "content": "s"}, USER])
    assert (text, form) == ("[system]s[user]Weather?", Form((), 0, ()))


def test_instructions_at_the_beginning_are_one_system_turn() -> None:
    messages = [{"role": "system", "content": "a"}, {"role": "system", "content": "b"}, USER]
    assert write(ChatWriter([Template(FIRST_SYSTEM)]), messages)[0] == "[system]a\n\nb[user]Weather?"


LATE = {"role": "system", "content": "b"}
ANSWER = {"role": "assistant", "content": "Hm."}
MARKED = "<system-reminder>\nb\n</system-reminder>"
# Gathers all system turns, as DeepSeek's templates do.
GATHERING = (
    "{% for m in messages if m.role == 'system' and m.content %}{{ m.content }} {% endfor %}"
    "{% for m in messages if m.role != 'system' %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)
ALTERNATING = (
    "{% for m in messages %}{% if loop.index0 and m.role == messages[loop.index0 - 1].role or m.role == 'system' %}"
    "{{ raise_it() }}{% endif %}[{{ m.role }}]{{ m.content }}{% endfor %}"
)


# Has words of its own where there is no system turn.
SPEAKING = "{% if messages | selectattr('role', 'equalto', 'system') | list | length == 0 %}I help.{% endif %}" + LAX


def test_a_late_instruction_does_not_replace_what_the_template_says_itself() -> None:
    text, _ = write(ChatWriter([Template(SPEAKING)]), [USER, ANSWER, LATE, USER])
    assert text == f"I help.[user]Weather?[assistant]Hm.[user]{MARKED}\n\nWeather?"
    first = [LATE, USER, ANSWER, LATE, USER]
    assert write(ChatWriter([Template(SPEAKING)]), first)[1].changes == ()


@pytest.mark.parametrize("template", [FIRST_SYSTEM, GATHERING, ALTERNATING])
@pytest.mark.parametrize(
    ("messages", "written"),
    [
        ([USER, ANSWER, LATE, USER], f"[user]Weather?[assistant]Hm.[user]{MARKED}\n\nWeather?"),
        ([USER, ANSWER, LATE, LATE, USER], f"[user]Weather?[assistant]Hm.[user]{MARKED}\n\n{MARKED}\n\nWeather?"),
        ([USER, LATE], f"[user]Weather?\n\n{MARKED}"),
        ([USER, LATE, ANSWER, USER], f"[user]Weather?\n\n{MARKED}[assistant]Hm.[user]Weather?"),
        ([USER, ANSWER, LATE], f"[user]Weather?[assistant]Hm.[user]{MARKED}"),
        ([USER, ANSWER, LATE, ANSWER, USER], f"[user]Weather?[assistant]Hm.[user]{MARKED}[assistant]Hm.[user]Weather?"),
        ([USER, ANSWER, {**LATE, "content": ""}, USER], "[user]Weather?[assistant]Hm.[user]Weather?"),
    ],
)
def test_a_late_instruction_stays_where_it_stands(template: str, messages: list[Any], written: str) -> None:
    writer = ChatWriter([Template(template)])
    text, _ = write(writer, messages)
    assert text == written
    # What stands before it is the same without it.
    assert text.startswith(write(writer, messages[: messages.index(LATE)] if LATE in messages else messages)[0])


def test_a_late_instruction_that_the_template_writes_in_place_is_a_system_turn() -> None:
    text, form = write(ChatWriter([Template(LAX)]), [USER, ANSWER, LATE, USER])
    assert (text, form.changes) == ("[user]Weather?[assistant]Hm.[system]b[user]Weather?", ())


@pytest.mark.parametrize("template", [FIRST_SYSTEM, GATHERING])
@pytest.mark.parametrize("late_first", [False, True])
def test_an_instruction_among_results_follows_them(template: str, late_first: bool) -> None:
    calls = "{% for c in m.tool_calls or [] %}{{ c.function | tojson }}{% endfor %}"
    tools = "{% for t in tools or [] %}<{{ t | tojson }}>{% endfor %}"
    writer = ChatWriter([Template(tools + template.replace("{{ m.content }}", "{{ m.content }}" + calls))])
    turns: list[Any] = [LATE, RESULT] if late_first else [RESULT, LATE]
    text, form = write(writer, [USER, CALLING, *turns], tools=[WEATHER])
    assert not form.is_generic
    assert text.endswith(f"[tool]sunny\n\n{MARKED}")


def test_a_late_instruction_of_the_generic_form_is_outside_of_the_results() -> None:
    text, form = write(ChatWriter([Template(FIRST_SYSTEM)]), [USER, CALLING, RESULT, LATE], tools=[WEATHER])
    assert form.is_generic
    assert text.endswith(f"</tool_response>\n\n{MARKED}")


def test_foreign_ids_are_mapped_for_the_prompt_alone() -> None:
    writer = ChatWriter([Template(NATIVE)])
    messages: list[dict[str, Any]] = [USER, CALLING, RESULT]
    text, form = write(writer, messages, tools=[WEATHER])
    assert "call00000={" in text
    assert CALL["id"] not in text
    assert messages[1]["tool_calls"][0]["id"] == CALL["id"]
    assert not form.is_generic
    # Ids that fit stay.
    own = [USER, {**CALLING, "tool_calls": [{**CALL, "id": "abcDEF123"}]}, {**RESULT, "tool_call_id": "abcDEF123"}]
    assert "abcDEF123={" in write(writer, own, tools=[WEATHER])[0]


def test_tools_that_the_template_drops_take_the_generic_form() -> None:
    text, form = write(ChatWriter([Template(LAX)]), [{"role": "system", "content": "Be kind."}, USER], tools=[WEATHER])
    assert form.is_generic
    assert text.startswith("[system]Be kind.\n\n# Tools")
    assert '"name": "weather"' in text


@pytest.mark.parametrize(
    ("schema", "written"),
    [
        ({"type": "integer", "minimum": 71}, '"minimum": 71'),
        ({"type": "number", "exclusiveMaximum": 0.25}, '"exclusiveMaximum": 0.25'),
        ({"type": "string", "pattern": "^a+$"}, '"pattern": "^a+$"'),
        ({"type": "string", "format": "uuid"}, '"format": "uuid"'),
        ({"type": "string", "minLength": 3}, '"minLength": 3'),
        ({"anyOf": [{"type": "boolean"}, {"type": "null"}]}, '[{"type": "boolean"}, {"type": "null"}]'),
        ({"type": "array", "items": {"type": "integer"}}, '"items": {"type": "integer"}'),
        ({"type": "array", "items": {"type": "string"}, "uniqueItems": True}, '"uniqueItems": true'),
        ({"type": "object", "additionalProperties": False}, '"additionalProperties": false'),
        ({"type": "string", "title": "Name of a town"}, '"title": "Name of a town"'),
        ({"type": "integer", "default": 7}, '"default": 7'),
        ({"type": "boolean", "default": True}, '"default": true'),
        ({"$ref": "#/$defs/town"}, '"$ref": "#/$defs/town"'),
        ({"type": "object", "properties": {"x": {}}, "required": ["x"]}, '"required": ["x"]'),
    ],
)
def test_what_a_schema_says_is_in_the_prompt(schema: dict[str, Any], written: str) -> None:
    parameters = {"type": "object", "properties": {"a": schema}}
    tool = {"type": "function", "function": {"name": "weather", "description": "Says.", "parameters": parameters}}
    text, form = write(ChatWriter([Template(USUAL)]), [USER], tools=[tool])
    assert not form.is_generic
    assert written in text


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer", "description": "Days."},
        {"type": "string", "title": "The Town"},
        {"type": "string", "enum": ["x", "y"]},
        {"enum": [99171, 99172]},
        {"$comment": "for authors", "type": "string", "deprecated": True},
    ],
)
def test_a_schema_that_the_template_writes_is_not_written_twice(schema: dict[str, Any]) -> None:
    whole = {"$schema": "s", "additionalProperties": False, "required": ["the_town"], "title": "weatherArguments"}
    parameters = {**whole, "type": "object", "properties": {"the_town": schema, "other": {"type": "string"}}}
    tool = {"type": "function", "function": {"name": "weather", "description": "Says.", "parameters": parameters}}
    assert write(ChatWriter([Template(USUAL)]), [USER], tools=[tool])[1].changes == ()
    assert write(ChatWriter([Template(NATIVE)]), [USER], tools=[tool])[1].changes == ()


def test_a_conversation_keeps_its_form_from_the_first_turn_to_the_last() -> None:
    tools_alone = "{% for t in tools or [] %}<{{ t | tojson }}>{% endfor %}" + LAX
    for template, is_generic in ((tools_alone, True), (NATIVE, False), (USUAL, False)):
        for messages in ([USER], [USER, CALLING, RESULT]):
            assert write(ChatWriter([Template(template)]), messages, tools=[WEATHER])[1].is_generic == is_generic
    assert not write(ChatWriter([Template(tools_alone)], "template"), [USER], tools=[WEATHER])[1].is_generic


def test_a_tool_may_look_like_a_part_of_a_content() -> None:
    properties = {"x": {"type": "text"}, "y": {"default": {"type": "image"}}}
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": properties}}}
    text, form = write(ChatWriter([Template(NATIVE)]), [USER], tools=[tool])
    assert '{"type": "text"}' in text
    assert form.changes == ()


def test_what_schemas_say_is_found_out_once_for_a_conversation() -> None:
    template = Template(USUAL)
    writer = ChatWriter([template])
    write(writer, [USER], tools=[WEATHER])
    messages: list[dict[str, Any]] = [USER]
    for _ in range(3):
        messages = [*messages, {"role": "assistant", "content": "Hm."}, USER]
        before = template.count
        write(writer, messages, tools=[WEATHER])
        assert template.count == before + 2


def test_results_of_the_generic_form_come_in_the_order_of_their_calls() -> None:
    other = {"id": "other", "function": {"name": "time", "arguments": "{}"}}
    calling = {**CALLING, "tool_calls": [CALL, other]}
    noon = {"role": "tool", "tool_call_id": "other", "content": "noon"}
    text, _ = write(ChatWriter([Template(LAX)]), [USER, calling, noon, RESULT])
    assert text.index("sunny") < text.index("noon")
    assert text.count("[user]") == 2


@pytest.mark.parametrize(
    ("tool_form", "template", "fields", "param"),
    [
        ("template", "lax", {"messages": [USER], "tools": [WEATHER]}, "tools[0]"),
        ("template", "lax", {"messages": [USER, CALLING, RESULT]}, "messages[1].tool_calls[0].function.name"),
        ("refuse", "native", {"messages": [USER], "tools": [WEATHER]}, "tools"),
        ("refuse", "native", {"messages": [USER, CALLING, RESULT]}, "messages[1]"),
    ],
)
def test_a_setting_decides(tool_form: str, template: str, fields: dict[str, Any], param: str) -> None:
    writer = ChatWriter([Template({"lax": LAX, "native": NATIVE}[template])], tool_form)
    refused = failure(writer, **fields)
    assert (refused.code, refused.param) == (Code.INVALID_REQUEST, param)


def test_generic_by_setting_concerns_chats_with_tools_alone() -> None:
    writer = ChatWriter([Template(NATIVE)], "generic")
    assert write(writer, [USER], tools=[WEATHER])[1].is_generic
    assert not write(writer, [USER])[1].is_generic


def test_what_a_template_leaves_out_on_purpose_is_named() -> None:
    answer = {"role": "assistant", "content": "Sunny.", "reasoning_content": "Hm."}
    _, form = write(ChatWriter([Template(LAX)]), [{**USER, "name": "alice"}, answer, USER])
    assert form.ignored == ("messages[].name", "messages[].reasoning_content")


@pytest.mark.parametrize(
    ("template", "messages", "fields", "expected"),
    [
        ("{{ nothing.there }}", [USER], {}, (Code.INTERNAL_ERROR, None)),
        (
            "{% if odd is defined %}{{ odd.a.b }}{% endif %}" + "LAX",
            [USER],
            {"chat_template_kwargs": {"odd": 1}},
            "kwargs",
        ),
        (
            WIZARD,
            [USER, USER, {"role": "wizard", "content": "x"}, USER],
            {},
            (Code.INVALID_REQUEST, "messages[2]"),
        ),
        (
            "{% for m in messages %}{% if m.role != 'wizard' %}{{ m.content }}{% endif %}{% endfor %}",
            [USER, {"role": "wizard", "content": "x"}],
            {},
            (Code.INVALID_REQUEST, "messages[1].content"),
        ),
    ],
)
def test_the_right_part_is_blamed(template: str, messages: list[Any], fields: dict[str, Any], expected: Any) -> None:
    refused = failure(ChatWriter([Template(template.replace("LAX", LAX))]), messages, **fields)
    wanted = (Code.INVALID_REQUEST, "chat_template_kwargs") if expected == "kwargs" else expected
    assert (refused.code, refused.param) == wanted


@pytest.mark.parametrize(
    ("tool", "param"),
    [
        ({"type": "function"}, "tools[0]"),
        ({"type": "function", "function": {"name": "f", "parameters": []}}, "tools[0]"),
        ({"type": "function", "function": {"name": "f", "description": []}}, "tools[0]"),
        ({"type": "function", "function": {"name": "f", "description": 0.5}}, "tools[0]"),
    ],
)
def test_what_is_no_tool_is_refused(tool: dict[str, Any], param: str) -> None:
    assert failure(ChatWriter([Template(LAX)]), [USER], tools=[tool]).param == param


def test_a_known_structure_costs_no_rendering() -> None:
    template = Template(LAX)
    writer = ChatWriter([template])
    for number in range(10):
        write(writer, [{"role": "user", "content": f"Number {number}"}])
    assert template.count == 1 + 10
    write(writer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, USER])
    assert template.count == 2 + 11


def test_a_refusal_of_many_turns_is_quick() -> None:
    template = Template(
        "{% for m in messages %}{% if m.role == 'wizard' %}{{ nothing.there }}{% endif %}{% endfor %}LAX"
    )

    def refuse() -> None:
        assert failure(ChatWriter([template]), [*[USER] * 4000, {"role": "wizard", "content": "x"}]).param

    assert cpu_seconds(refuse) < 30
    assert template.count < 300
