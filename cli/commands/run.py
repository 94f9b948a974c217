"""`run`: one question to a model, or a conversation with it in the terminal.

A conversation needs a terminal on both sides. Else the prompt comes from the arguments and from stdin, and only the
text of the answer goes to stdout.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Annotated

import typer

from cli.address import DEFAULT_URL
from cli.chat import REASONING, ChatTurns
from cli.errors import CliError, ExitCode, RefusedError
from cli.gateway import Gateway
from cli.names import naming, unknown_model
from cli.options import AsJson, Model, Url
from cli.output import can_ask, dim, flush, is_terminal, line, note, print_json, write
from cli.pictures import data_url
from cli.progress import watched
from cli.text import shown

QUOTES = '"""'
HELP = """/bye      leave (so does Ctrl-D)
/clear    forget the conversation
/help     this list
Ctrl-C    stop the answer
\"\"\"       begin and end a prompt of several lines"""


def command(
    model: Model,
    prompt: Annotated[str | None, typer.Argument(metavar="PROMPT", help="Without it: a conversation.")] = None,
    *,
    image: Annotated[
        list[str] | None, typer.Option("--image", metavar="FILE", help="Show it an image; may be repeated.")
    ] = None,
    system: Annotated[str | None, typer.Option("--system", metavar="TEXT", help="Instructions for the model.")] = None,
    max_tokens: Annotated[
        int | None, typer.Option("--max-tokens", min=1, metavar="TOKENS", help="How long an answer is at most.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option("--temperature", min=0, metavar="NUMBER", help="How freely it chooses its words; 0: not at all."),
    ] = None,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Ask a model, or talk to it. Loads it if it is not loaded.

    What is piped in comes before the PROMPT. In a conversation, /help lists what can be typed.
    """
    images = [data_url(path) for path in image or ()]
    gateway = Gateway(url, timeout=None)
    conversation = ChatTurns(gateway, model, system, {"max_tokens": max_tokens, "temperature": temperature})
    if prompt is None and can_ask() and is_terminal() and not as_json:
        _exists(gateway, model)
        _talk(gateway, model, conversation, images)
        return
    text = _whole_prompt(prompt)
    with naming(gateway, model):
        if as_json:
            print_json(conversation.whole(text, images))
        else:
            _answer(gateway, model, conversation, text, images)


def _whole_prompt(prompt: str | None) -> str:
    piped = "" if sys.stdin is None or can_ask() else sys.stdin.read().strip("\n")
    text = "\n\n".join(part for part in (piped, prompt) if part)
    if not text.strip():
        raise CliError("there is no prompt: give it as an argument or pipe it in", ExitCode.USAGE)
    return text


def _exists(gateway: Gateway, model: str) -> None:
    """Before the first prompt is typed. A name with an organisation may be fetched from the hub by the first answer."""
    try:
        gateway.waiting(30.0).get(f"/v1/models/{model}")
    except RefusedError as error:
        if error.exit_code is not ExitCode.NO_MODEL:
            raise
        if "/" not in model:
            raise (unknown_model(gateway, model) or error) from error


def _talk(gateway: Gateway, model: str, conversation: ChatTurns, images: list[str]) -> None:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401, PLC0415 -- input() then has history and keys to edit
    note(dim(f"{shown(model)}: /help for help, /bye to leave"))
    for prompt in _prompts():
        if prompt == "/clear":
            conversation.forget()
            note(dim("forgotten"))
            continue
        try:
            _answer(gateway, model, conversation, prompt, images)
        except KeyboardInterrupt:
            note(dim("stopped"))
        except CliError as error:
            if error.exit_code in (ExitCode.REFUSED, ExitCode.NO_MODEL):
                raise
            note(shown(_friendly(error, model)))
        else:
            images = []  # they are part of the conversation now


def _friendly(error: CliError, model: str) -> str:
    if isinstance(error, RefusedError) and error.code == "worker_died":
        return f"The process of {model} died in the middle of its answer ({error}). Ask again: a new one answers."
    return f"{error}. This turn is not kept: ask again once that is mended"


def _prompts() -> Iterator[str]:
    """What is typed, until the end."""
    while True:
        try:
            text = input(">>> ")
            if text.lstrip().startswith(QUOTES):
                text = _several_lines(text.lstrip().removeprefix(QUOTES))
        except EOFError:
            line()
            return
        except KeyboardInterrupt:
            line()
            note(dim("Ctrl-D or /bye leaves"))
            continue
        word = text.strip()
        if word == "/bye":
            return
        if word in ("/help", "/?"):
            line(HELP)
        elif word.startswith("/") and word != "/clear" and " " not in word and "/" not in word[1:]:
            note(f"{shown(word)} is not known: /help lists what is")
        elif word:
            yield word


def _several_lines(first: str) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(QUOTES):
        lines.append(input("... "))
    lines[-1] = lines[-1].rstrip().removesuffix(QUOTES)
    return "\n".join(lines).strip("\n")


def _answer(gateway: Gateway, model: str, conversation: ChatTurns, prompt: str, images: list[str]) -> None:
    """Printed as it comes: for a terminal harmless and with its reasoning, dimmed; for a pipe the text alone."""
    terminal = is_terminal()
    thinking = False
    try:
        with contextlib.ExitStack() as waiting, contextlib.closing(conversation.ask(prompt, images)) as pieces:
            waiting.enter_context(watched(gateway, model))
            for kind, piece in pieces:
                waiting.close()
                if kind == REASONING:
                    if terminal:
                        write(dim(shown(piece, keep="\n\t")))
                else:
                    if thinking:
                        write("\n\n")
                    write(shown(piece, keep="\n\t") if terminal else piece)
                thinking = terminal and kind == REASONING
                flush()
    except (CliError, KeyboardInterrupt):
        if terminal:
            line()
        raise
    line()
