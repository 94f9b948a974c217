"""`ps`: the models that are loaded, are loading or have failed, and what each takes."""

import time
from typing import Any

from cli.address import DEFAULT_URL
from cli.gateway import Gateway, listed
from cli.options import AsJson, Url
from cli.output import Column, is_terminal, line, note, print_json, print_table
from cli.text import duration, rate, shown, size

COLUMNS = (
    Column("MODEL", 0),
    Column("STATE", 1),
    Column("PID", 7, right=True),
    Column("MEMORY", 2, right=True),
    Column("LIMIT", 8, right=True),
    Column("MLX", 9, right=True),
    Column("CPU", 5, right=True),
    Column("TOK/S", 3, right=True),
    Column("RUN", 4, right=True),
    Column("WAIT", 6, right=True),
    Column("IDLE UNTIL", 10),
)


def command(url: Url = DEFAULT_URL, as_json: AsJson = False) -> None:
    """Show what runs or is on its way, and what it takes."""
    status = Gateway(url).get("/admin/models/status")
    models = listed(status, "models")
    if as_json:
        print_json(status)
        return
    if not models and is_terminal():
        line("No model is loaded. `mlx-broker models` lists those on this machine.")
        return
    print_table(COLUMNS, rows(models, time.time()))
    for text in troubles(models):
        note(text)


def rows(models: list[dict[str, Any]], now: float) -> list[list[str]]:
    """A row for each model. now: Unix seconds."""
    return [
        [
            str(model.get("model_id", "-")),
            state(model),
            number(model.get("pid")),
            size(model.get("footprint_bytes") or model.get("rss_bytes")),
            size(model.get("memory_limit_bytes")),
            size(model.get("mlx_active_bytes")),
            "-" if model.get("cpu_percent") is None else f"{model['cpu_percent']:.0f}%",
            rate(model.get("tokens_per_second")),
            number(model.get("in_flight")),
            number(model.get("queued")),
            idle_until(model, now),
        ]
        for model in models
    ]


def state(model: dict[str, Any]) -> str:
    """With how far a load or a download is."""
    text = str(model.get("state", "-"))
    fraction = model.get("fraction")
    return text if not isinstance(fraction, float | int) else f"{text} {fraction:.0%}"


def idle_until(model: dict[str, Any], now: float) -> str:
    """When it leaves if nobody uses it."""
    if model.get("preloaded"):
        return "pinned"
    until = model.get("idle_until")
    if until is None:
        return "-"
    return f"{time.strftime('%H:%M:%S', time.localtime(until))} (in {duration(until - now)})"


def troubles(models: list[dict[str, Any]]) -> list[str]:
    """Why models are not served, a line each."""
    return [
        f"{shown(model.get('model_id'))}: {shown(model['reason'])}"
        for model in models
        if model.get("state") in ("failed", "cooldown") and model.get("reason")
    ]


def number(value: object) -> str:
    """A number that may be missing."""
    return "-" if value is None else str(value)
