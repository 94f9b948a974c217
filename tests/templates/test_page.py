"""docs/families.md says of every real template which form its calls and its reasoning have."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import orjson
import pytest

from broker.wire.failure import FailureError
from gateway.core.sampling import Defaults
from gateway.openai.requests import chat_work, parse_chat
from tests.service import ROOT
from tests.templates.corpus import ARCHIVE, templates, tokenizer_for
from tests.templates.shapes import SHAPES
from worker.chat.renderers import renderer_of
from worker.chat.writer import ChatWriter
from worker.generation.answer import AnswerFormat
from worker.generation.calls.formats import HARMONY
from worker.generation.prompt import write_prompt
from worker.generation.reasoning import think_tags

pytestmark = [pytest.mark.slow, pytest.mark.needs_index(ARCHIVE)]

PAGE = (ROOT / "docs" / "families.md").read_text()
FORMS = (ROOT / "docs" / "models.md").read_text().partition("## Forms of tool calls\n")[2].partition("\n## ")[0]
CALLED = next(shape for shape in SHAPES if shape.name == "a call and its end")


def tools_of(tokenizer: Any) -> str:
    """The form that a chat with a tool, a call and its result takes."""
    (work,) = chat_work(parse_chat(orjson.dumps(CALLED.body)), [], Defaults())
    try:
        prompt = write_prompt(work, tokenizer, ChatWriter([renderer_of(tokenizer)]), 0)
    except FailureError:
        return "refused"
    calls = AnswerFormat(tokenizer, generic=prompt.is_generic).calls
    return "none" if calls is None else calls.name


def reasoning_of(tokenizer: Any) -> str:
    """The mark that opens it."""
    if AnswerFormat(tokenizer).calls is HARMONY:
        return "`analysis`"
    tags = think_tags(tokenizer)
    return "none" if tags is None else f"`{tags[0]}`".replace("|", "\\|")


def test_the_table_is_what_the_code_finds(tmp_path: Path) -> None:
    rows: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for name, text in templates().items():
        tokenizer = tokenizer_for(text, tmp_path / name)
        rows[tools_of(tokenizer), reasoning_of(tokenizer)].append(f"`{name}`")
    wanted = [f"| {tools} | {reasoning} | {', '.join(names)} |" for (tools, reasoning), names in sorted(rows.items())]
    section = PAGE.partition("## Tools and reasoning\n")[2].partition("\n## ")[0]
    assert re.findall(r"^\| (?!tools |---).*\|$", section, re.MULTILINE) == wanted
    forms = set(re.findall(r"`(\w+)`", FORMS))
    assert {tools for tools, _ in rows} - {"none", "refused"} <= forms
