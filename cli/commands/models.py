"""`models`: what is on the disk of the gateway's machine, and what is broken there."""

from typing import Annotated, Any

import typer

from cli.address import DEFAULT_URL
from cli.gateway import Gateway, listed
from cli.options import AsJson, Url
from cli.output import Column, is_terminal, line, note, print_json, print_table
from cli.text import gigabytes, plural

COLUMNS = (
    Column("MODEL", 0),
    Column("STATE", 2),
    Column("SIZE", 1, right=True),
    Column("TYPE", 3),
    Column("QUANT", 4),
    Column("PARAMS", 6, right=True),
    Column("CONTEXT", 5, right=True),
    Column("CAN", 7),
)
BROKEN = (Column("MODEL", 0), Column("REASON", 1), Column("PATH", 2))


def command(
    broken: Annotated[bool, typer.Option("--broken", help="List the folders that cannot be loaded, and why.")] = False,
    url: Url = DEFAULT_URL,
    as_json: AsJson = False,
) -> None:
    """List the models on this machine, loaded or not."""
    answer = Gateway(url).get("/admin/models")
    models, bad = listed(answer, "models"), listed(answer, "broken")
    if as_json:
        print_json(answer)
    elif broken:
        print_table(BROKEN, [[str(entry.get(name, "-")) for name in ("model_id", "reason", "path")] for entry in bad])
    elif models or not is_terminal():
        print_table(COLUMNS, [_row(model) for model in models])
        if bad:
            note(f"{plural(len(bad), 'folder')} cannot be loaded: see `mlx-broker models --broken`")
    else:
        line("There is no model here. `mlx-broker pull mlx-community/SmolLM2-135M-Instruct` downloads a small one.")


def _row(model: dict[str, Any]) -> list[str]:
    state = str(model.get("state", "-"))
    return [
        str(model.get("model_id", "-")),
        f"{state}, pinned" if model.get("pinned") else state,
        gigabytes(model.get("size_gb")),
        str(model.get("model_type", "-")),
        str(model.get("quantization") or "-"),
        _count(model.get("parameters")),
        str(model.get("context_length") or "-"),
        " ".join(map(str, model.get("capabilities") or ())) or "-",
    ]


def _count(parameters: object) -> str:
    """`135M`, `7.6B`."""
    if not isinstance(parameters, int):
        return "-"
    if parameters >= 10**9:
        return f"{parameters / 10**9:.1f}B"
    return f"{parameters / 10**6:.0f}M" if parameters >= 10**6 else str(parameters)
