"""Writes chats with a model's template, each in the first form in which rendering shows that nothing vanishes.

Free of mlx. A template is the model author's program and may raise anything.
"""

import hashlib
import re
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

from broker.wire.failure import Code, Failure, FailureError, invalid, one_line
from worker.chat.chat import Chat
from worker.chat.forms import (
    Change,
    alternating,
    empty_tools,
    instructions_in_place,
    one_call_each,
    plain_ids,
    schemas_described,
    text_arguments,
    thinking_parts,
    without_late_instructions,
)
from worker.chat.generic import generic, generic_in_user_turn
from worker.chat.messages import Turn
from worker.chat.schemas import changed, is_whole, without_blanks
from worker.chat.words import Skeleton, skeleton

# How a model's chats have tools: as its template writes them, in the generic form, or not at all.
TOOL_FORMS = ("template", "generic", "refuse")

_REMEMBERED = 256  # structures

# A part of a content as Python or JSON has it: the template took a list for a text.
_DUMPED = re.compile(r"""['"]type['"]: ?['"](?:text|image|audio|thinking)['"]""")

# Type of a part -> the files of the request that it stands for.
_FILES = {"image": "images", "audio": "audios"}

Changes = tuple[Change, ...]

# The template's own forms, those that change least first. The last is for one family whose template wants text.
_NATIVE: tuple[Changes, ...] = (
    (),
    (instructions_in_place,),
    (plain_ids,),
    (plain_ids, instructions_in_place),
    (plain_ids, instructions_in_place, alternating),
    (plain_ids, instructions_in_place, one_call_each, alternating),
    (plain_ids, instructions_in_place, one_call_each, alternating, text_arguments),
)
_GENERIC: tuple[Changes, ...] = ((generic,), (generic_in_user_turn,))

_T = TypeVar("_T")

_PROBE: Turn = {"role": "user", "content": "Hi"}


def _proof() -> Chat:
    """What a template must write so that a conversation with tools keeps one form from its first turn."""
    parameters: dict[str, Any] = {"type": "object", "properties": {}}
    tools = []
    calls = []
    results: list[Turn] = []
    for name in ("f", "g"):
        tools.append({"type": "function", "function": {"name": name, "description": "d", "parameters": parameters}})
        calls.append({"id": f"call_{name}", "type": "function", "function": {"name": name, "arguments": {"a": "b"}}})
        results.append({"role": "tool", "content": "done", "tool_call_id": f"call_{name}", "name": name})
    calling = {"role": "assistant", "content": "", "tool_calls": calls}
    turns = [_PROBE, calling, *results, {"role": "assistant", "content": "Done."}, _PROBE]
    return Chat(turns, tools, {})


class Render(Protocol):
    """A template, and how it takes contents."""

    def __call__(self, chat: Chat, *, tokenize: bool, asks: bool) -> Any:
        """The chat as text or tokens; asks: with the prompt for an answer."""


@dataclass(slots=True, frozen=True)
class Form:
    """How the chats of one structure are written. ignored: fields that the template leaves out on purpose."""

    changes: Changes
    renderer: int
    ignored: tuple[str, ...]

    @property
    def is_generic(self) -> bool:
        """Whether calls are written and read in the generic form."""
        return any(change in (generic, generic_in_user_turn) for change in self.changes)

    def apply(self, chat: Chat) -> Chat:
        """The chat in this form."""
        for change in self.changes:
            chat = change(chat)
        return chat


@dataclass(slots=True, frozen=True)
class _Attempt:
    """A form that did not do. missing: fields; error: of the template."""

    missing: tuple[str, ...] = ()
    error: Exception | None = None


class ChatWriter:
    """For one model. Mutable state: the forms of the structures that came last, or why there is none; whether the
    schemas of the tools that came last are written; whether calls are, None until somebody asks."""

    def __init__(
        self, renderers: Sequence[Render], tool_form: str | None = None, *, writes_images: bool = False
    ) -> None:
        """renderers: the first that does is taken; tool_form: one of TOOL_FORMS, None for the template's where it
        writes all, else the generic one; writes_images: whether the template has to write something for each image and
        each sound."""
        self._renderers = renderers
        self._tool_form = tool_form
        self._writes_images = writes_images
        self._known: OrderedDict[bytes, Form | Failure] = OrderedDict()
        self._told: OrderedDict[bytes, bool] = OrderedDict()
        self._writes_calls: bool | None = None

    def form(self, chat: Chat) -> Form:
        """Raises FailureError naming the part that no form writes."""
        self._refuse_tools(chat)
        bones = skeleton(chat)
        known = _remembered(self._known, bones.chat, lambda: self._find(bones))
        if isinstance(known, Failure):
            raise FailureError(known)
        return known

    def render(self, form: Form, chat: Chat, *, tokenize: bool, asks: bool = True) -> Any:
        """The text or the tokens of a chat in this form already. Raises FailureError."""
        try:
            return self._renderers[form.renderer](chat, tokenize=tokenize, asks=asks)
        except FailureError:
            raise
        except Exception as error:
            message = f"the model's chat template refuses these messages: {one_line(error)}"
            raise invalid(message, param="messages") from error

    def _refuse_tools(self, chat: Chat) -> None:
        if self._tool_form != "refuse":
            return
        if chat.tools:
            raise invalid("this model is set to take no tools", param="tools")
        for index, turn in enumerate(chat.turns):
            if turn.get("tool_calls") or turn["role"] == "tool":
                raise invalid("this model is set to take no calls of tools", param=f"messages[{index}]")

    def _forms(self, chat: Chat) -> Iterator[Changes]:
        has_tools = bool(chat.tools) or chat.has_calls
        variant = schemas_described if chat.tools else empty_tools
        if not has_tools or self._tool_form == "template" or (self._tool_form is None and self._can_call()):
            yield from _native(variant)
        if self._tool_form != "template" or not has_tools:
            yield from _GENERIC
            yield from ((*changes, empty_tools) for changes in _GENERIC)

    def _can_call(self) -> bool:
        """Whether the template writes tools, calls and results. If not, tools have the generic form before the first
        call too: an answer is read in the form of its prompt."""
        if self._writes_calls is None:
            self._writes_calls = isinstance(self._first(skeleton(_proof()), _native(schemas_described)), Form)
        return self._writes_calls

    def _find(self, bones: Skeleton) -> Form | Failure:
        found = self._first(bones, self._forms(bones.chat))
        return self._with_thoughts(bones, found) if isinstance(found, Form) else self._blame(bones.chat, found)

    def _first(self, bones: Skeleton, forms: Iterator[Changes]) -> Form | list[_Attempt]:
        attempts: list[_Attempt] = []
        tried: list[Chat] = []
        moving: Form | None = None
        for changes in forms:
            form = Form(changes, 0, ())
            chat = form.apply(bones.chat)
            if chat in tried:  # many changes change nothing
                continue
            tried.append(chat)
            for number in range(len(self._renderers)):
                attempt = self._attempt(bones, chat, replace(form, renderer=number))
                if isinstance(attempt, _Attempt):
                    attempts.append(attempt)
                    continue
                found = Form(changes, number, attempt)
                if not self._moves_instructions(bones, found):
                    return found
                moving = moving or found
        return moving or attempts

    def _moves_instructions(self, bones: Skeleton, form: Form) -> bool:
        """Whether a late instruction changes the prompt before it: a template may gather all instructions at the front,
        or leave out its own there."""
        word = bones.before_late
        if word is None:
            return False
        beginnings = []
        for chat in (bones.chat, without_late_instructions(bones.chat)):
            try:
                text = str(self._renderers[form.renderer](form.apply(chat), tokenize=False, asks=True)).lower()
            except Exception:  # noqa: BLE001 # see above
                return False
            beginnings.append(text[: text.find(word)])
        return beginnings[0] != beginnings[1]

    def _attempt(self, bones: Skeleton, chat: Chat, form: Form) -> _Attempt | tuple[str, ...]:
        """What is left out on purpose, if all the rest is written. chat: in this form."""
        renderer = self._renderers[form.renderer]
        try:
            text = str(renderer(chat, tokenize=False, asks=True))
            if _DUMPED.search(text):
                return _Attempt(error=ValueError("the template writes parts of a content as they are"))
            missing = bones.missing(text)
            if not missing and chat.tools and schemas_described not in form.changes:
                missing = self._untold(chat, text, form.renderer)
            if not missing and self._writes_images:
                missing = _unwritten_files(chat, text, renderer)
        except Exception as error:  # noqa: BLE001 # see above
            return _Attempt(error=error)
        return _Attempt(missing=tuple(missing)) if missing else tuple(bones.left_out(text))

    def _untold(self, chat: Chat, text: str, renderer: int) -> list[str]:
        """The first tool of whose schema the text lacks something that no word stands for."""
        plain = without_blanks(text)
        partly = {f"tools[{n}]": tool for n, tool in enumerate(chat.tools or ()) if not is_whole(tool, plain)}

        def is_told() -> bool:
            pairs = changed(list(partly.values()))
            return pairs is not None and all(written(one) != written(other) for one, other in pairs)

        def written(tool: dict[str, Any]) -> str:
            probe = Chat([_PROBE], [tool], chat.kwargs)
            return str(self._renderers[renderer](probe, tokenize=False, asks=True))

        if not partly or _remembered(self._told, (partly, chat.kwargs, renderer), is_told):
            return []
        return [next(iter(partly))]

    def _with_thoughts(self, bones: Skeleton, form: Form) -> Form:
        """The same form with reasoning as a part of the content, if the template writes it there alone."""
        if not any(where.endswith("reasoning_content") for where in form.ignored):
            return form
        other = replace(form, changes=(*form.changes, thinking_parts))
        attempt = self._attempt(bones, other.apply(bones.chat), other)
        if isinstance(attempt, _Attempt) or len(attempt) >= len(form.ignored):
            return form
        return replace(other, ignored=attempt)

    def _blame(self, chat: Chat, attempts: list[_Attempt]) -> Failure:
        """Why no form does: the fewest parts that one of them lacks, or who is at fault that the template fails."""
        lacking = [attempt.missing for attempt in attempts if attempt.missing]
        if lacking:
            where = min(lacking, key=len)[0]
            return _refusal(f"{where}: the model's chat template does not write it", where)
        error = next((one_line(attempt.error) for attempt in attempts if attempt.error), "")
        anything = replace(chat, turns=[_PROBE], tools=None, kwargs={})
        if not self._can(anything):
            return Failure(Code.INTERNAL_ERROR, f"the model's chat template fails with any messages: {error}")
        if not self._can(replace(anything, kwargs=chat.kwargs)):
            return _refusal(
                f"the model's chat template refuses the chat_template_kwargs: {error}", "chat_template_kwargs"
            )
        anything = replace(anything, kwargs=chat.kwargs)
        for index, tool in enumerate(chat.tools or ()):
            if not self._can(replace(anything, tools=[tool])):
                return _refusal(f"tools[{index}]: the model's chat template refuses it: {error}", f"tools[{index}]")
        where = f"messages[{self._first_refused(chat)}]"
        return _refusal(f"{where}: the model's chat template refuses it: {error}", where)

    def _first_refused(self, chat: Chat) -> int:
        """The position of the turn with which a chat that fails begins to fail, by halving."""
        good, bad = 0, len(chat.turns)
        while bad - good > 1:
            middle = (good + bad) // 2
            if self._can(replace(chat, turns=chat.turns[:middle])):
                good = middle
            else:
                bad = middle
        return bad - 1

    def _can(self, chat: Chat) -> bool:
        """Whether any form of the chat can be rendered at all."""
        for changes in self._forms(chat):
            changed = Form(changes, 0, ()).apply(chat)
            for renderer in self._renderers:
                try:
                    renderer(changed, tokenize=False, asks=True)
                except Exception:  # noqa: BLE001, S112 # see above
                    continue
                return True
        return False


def _native(variant: Change) -> Iterator[Changes]:
    yield from _NATIVE
    yield from ((*changes, variant) for changes in _NATIVE)


def _remembered(known: OrderedDict[bytes, _T], structure: object, find: Callable[[], _T]) -> _T:
    """What was found for a structure before, or is now."""
    key = hashlib.blake2b(repr(structure).encode("utf-8", "replace"), digest_size=16).digest()
    found = known.pop(key) if key in known else find()
    known[key] = found
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
    return found


def _unwritten_files(chat: Chat, text: str, renderer: Callable[..., Any]) -> list[str]:
    """The images and sounds without which the text would be the same."""
    unwritten = []
    counts = dict.fromkeys(_FILES, 0)
    for number, turn in enumerate(chat.turns):
        content = turn["content"]
        for index, part in enumerate(() if isinstance(content, str) else content):
            if (kind := part.get("type")) not in counts:
                continue
            others = {**turn, "content": [*content[:index], *content[index + 1 :]]}
            without = replace(chat, turns=[*chat.turns[:number], others, *chat.turns[number + 1 :]])
            # Apart from blanks, which join the texts around it.
            if "".join(str(renderer(without, tokenize=False, asks=True)).split()) == "".join(text.split()):
                unwritten.append(f"{_FILES[kind]}[{counts[kind]}]")
            counts[kind] += 1
    return unwritten


def _refusal(message: str, param: str) -> Failure:
    return Failure(Code.INVALID_REQUEST, message, param)
