"""What client programs have sent, as files: each `tests/clients/recordings/NAME.json` lists requests and answers.

Long texts (an agent's instructions) are cut there, and the folder that a program ran in has another name.
"""

import json
import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.clients.recorder import Exchange

FOLDER = Path(__file__).parent / "recordings"
RUN = "/home/user/run"
# Folders of a service, which messages name.
_SERVICE = re.compile(re.escape(tempfile.gettempdir()) + r"/mlxb-\w+")
_LONGEST = 160
_LONGEST_LINE = 4000


def keep_or_compare(name: str, exchanges: Sequence[Exchange], folder: Path) -> None:
    """Write the file if RECORD_CLIENTS is set; else the program must still send requests of the same kinds.

    folder: in which the program has run.
    """
    kept = [_short(exchange.to_map(), str(folder)) for exchange in exchanges]
    assert kept, "the program has sent nothing"
    path = FOLDER / f"{name}.json"
    if os.environ.get("RECORD_CLIENTS"):
        FOLDER.mkdir(exist_ok=True)
        path.write_text(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
        return
    assert kinds_of(kept) == kinds_of(recorded(name)), f"{path.name} is not what the program sends now"


def recorded(name: str) -> list[dict[str, Any]]:
    """The exchanges of a program."""
    exchanges: list[dict[str, Any]] = json.loads((FOLDER / f"{name}.json").read_text())
    return exchanges


def without_folders(answer: str) -> str:
    """The same wherever the service has its folders."""
    return _SERVICE.sub("/home/user/service", answer)


def kinds_of(exchanges: Sequence[dict[str, Any]]) -> set[tuple[str, str, int, tuple[str, ...]]]:
    """Method, path, status and the fields of the body, whatever their order."""
    return {(e["method"], e["path"], e["status"], tuple(sorted(e["body"] or ()))) for e in exchanges}


def _short(value: Any, folder: str) -> Any:
    if isinstance(value, dict):
        return {k: _short_answer(v, folder) if k == "answer" else _short(v, folder) for k, v in value.items()}
    if isinstance(value, list):
        return [_short(one, folder) for one in value]
    if isinstance(value, str):
        value = value.replace(folder, RUN)
        return value if len(value) <= _LONGEST else value[:_LONGEST] + "..."
    return value


def _short_answer(answer: str, folder: str) -> str:
    """Byte for byte, but for the lines that repeat a long request."""
    lines = without_folders(answer.replace(folder, RUN)).split("\n")
    return "\n".join(_short_line(line, folder) if len(line) > _LONGEST_LINE else line for line in lines)


def _short_line(line: str, folder: str) -> str:
    before, brace, rest = line.partition("{")
    event = _short(json.loads(brace + rest), folder)
    for told in (event, event.get("response", {})):
        told.pop("tools", None)
    return before + json.dumps(event)
