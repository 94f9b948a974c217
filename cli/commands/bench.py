"""`bench`: how fast a gateway serves one model, to one client and to several at once."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from cli.address import DEFAULT_URL
from cli.errors import CliError, ExitCode
from cli.gateway import Gateway
from cli.names import unknown_model
from cli.options import AsJson, Model, Url
from cli.output import Column, line, note, print_json, print_table
from cli.speed.launches import launches
from cli.speed.streams import Level
from cli.speed.traffic import Prompts, ask, measure
from cli.text import plural, rate

COLUMNS = (
    Column("STREAMS", 0, right=True),
    Column("TTFT", 1, right=True),
    Column("P95", 3, right=True),
    Column("TOK/S EACH", 2, right=True),
    Column("TOK/S ALL", 0, right=True),
    Column("REQUESTS", 4, right=True),
    Column("PROMPT", 5, right=True),
    Column("DEVICE WAITS", 7, right=True),
    Column("CLIENT CPU", 6, right=True),
)
MOST_STREAMS = 256
MOST_TOKENS = 1_000_000
# From here on the client, and not the model, may be what is measured.
BUSY = 0.8

# Texts: typer would import pydantic for numbers.
Streams = Annotated[
    str, typer.Option("--streams", metavar="1,4,16", help="How many at once, one line of the table each.")
]
PromptTokens = Annotated[str, typer.Option("--prompt-tokens", metavar="TOKENS", help="About how long prompts are.")]
Tokens = Annotated[str, typer.Option("--tokens", metavar="TOKENS", help="How long answers are at most.")]
Rounds = Annotated[str, typer.Option("--rounds", metavar="COUNT", help="Requests of each stream, one after the other.")]


def command(
    model: Model,
    *,
    streams: Streams = "1,4,16",
    prompt_tokens: PromptTokens = "128",
    tokens: Tokens = "128",
    rounds: Rounds = "3",
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """Measure time to the first token, and tokens per second."""
    levels = [whole("--streams", entry, MOST_STREAMS) for entry in streams.split(",")]
    prompt, answer = whole("--prompt-tokens", prompt_tokens, MOST_TOKENS), whole("--tokens", tokens, MOST_TOKENS)
    repeats = whole("--rounds", rounds, MOST_TOKENS)
    gateway = Gateway(url)
    prompts = warmed_up(gateway, model)
    measured = []
    waits = list[float | None]()
    launched = launches(gateway, model)
    for count in levels:
        note(f"measuring {plural(count, 'stream')}")
        measured.append(
            measure(gateway, model, prompts, streams=count, rounds=repeats, prompt_tokens=prompt, tokens=answer)
        )
        before, launched = launched, launches(gateway, model)
        waits.append(None if before is None or launched is None else launched.since(before))
    about = machine(gateway)
    if as_json:
        asked = {"prompt_tokens": prompt, "tokens": answer, "rounds": repeats}
        told_levels = [{**asdict(level), "device_waits": share} for level, share in zip(measured, waits, strict=True)]
        print_json({"model": model, "server": about, **asked, "levels": told_levels})
        return
    print_table(COLUMNS, [row(level, share) for level, share in zip(measured, waits, strict=True)])
    line()
    line(told(model, prompt, answer, about))
    if any(level.client_cpu > BUSY for level in measured):
        note("this client was busy for most of a core: the model may be faster than it could read")


def warmed_up(gateway: Gateway, model: str) -> Prompts:
    """Prompts for this model, which is loaded by then: a request loads it and does not pin it. Raises CliError."""
    note(f"loading {model}, if it is not, and warming up")
    prompts = Prompts()
    try:
        prompts.calibrate(lambda prompt: ask(gateway, model, prompt, 1))
    except CliError as error:
        if error.exit_code is ExitCode.NO_MODEL:
            raise unknown_model(gateway, model) or error from error
        raise
    failed = ask(gateway, model, prompts.of_tokens(64), 16).error
    if failed is not None:
        raise CliError(f"{model} cannot answer: {failed}")
    return prompts


def row(level: Level, device_waits: float | None) -> list[str]:
    """Of the table. device_waits: a share of the steps, None if it is not known."""
    return [
        str(level.streams),
        milliseconds(level.ttft_median),
        milliseconds(level.ttft_p95),
        rate(level.per_stream),
        rate(level.in_total),
        str(level.requests),
        f"{level.prompt_tokens:.0f}",
        "-" if device_waits is None else f"{device_waits:.1%}",
        f"{level.client_cpu:.0%}",
    ]


def milliseconds(seconds: float | None) -> str:
    """`12 ms`."""
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"


def machine(gateway: Gateway) -> dict[str, Any] | None:
    """What serves there; None if the gateway does not say it, or not to this client."""
    try:
        return gateway.get("/admin/version")
    except CliError:
        return None


def told(model: str, prompt_tokens: int, tokens: int, about: dict[str, Any] | None) -> str:
    """The line below the table: what was measured."""
    text = f"{model}: prompts of about {prompt_tokens} tokens, answers of {tokens} at most"
    if about is None:
        return text
    libraries = about.get("libraries") or {}
    metal = about.get("metal")
    device = "" if metal is None else "Metal" if metal else "CPU"
    parts = [
        f"mlx-broker {about.get('version')}",
        *(f"{name} {libraries[name]}" for name in ("mlx", "mlx-lm") if name in libraries),
        *(str(about[name]) for name in ("system", "machine") if about.get(name)),
        *([device] if device else []),
    ]
    return f"{text}; {', '.join(parts)}"


def whole(option: str, text: str, most: int) -> int:
    """A whole number from 1 to `most`. Raises CliError."""
    digits = text.strip()
    if digits.isascii() and digits.isdigit() and len(digits) <= len(str(most)) and 1 <= int(digits) <= most:
        return int(digits)
    raise CliError(f"{option} must be a whole number from 1 to {most}, not {digits!r}", ExitCode.USAGE)
