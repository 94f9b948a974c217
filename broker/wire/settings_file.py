"""The settings file that broker and gateway share: where it is, which tables it has, and how mistakes are reported.

It knows no setting but those that stand outside of the tables: broker/settings.py and gateway/settings.py check the
values. Standard library only.
"""

import os
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

PREFIX = "MLX_BROKER_"
_DEFAULT_FILE = "mlx-broker.toml"
# Tables with the settings of one process.
_PROCESSES = ("broker", "gateway")
# What stands outside of them, because more than one process reads it.
_SHARED = ("runtime_dir", "models", "aliases")
# Tables, which no environment variable can be.
_TABLES = ("models", "aliases")


class SettingsError(Exception):
    """A process cannot start with these settings. `args`: the mistakes, one line each."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


def read_settings_file(process: str) -> dict[str, Any]:
    """The settings of this process (broker or gateway) and the shared ones, as one map; empty if there is no file.

    `MLX_BROKER_CONFIG` names the file, which must exist then; else it is mlx-broker.toml in the working directory.
    Raises SettingsError.
    """
    named = os.environ.get(f"{PREFIX}CONFIG")
    path = Path(named or _DEFAULT_FILE)
    if not named and not path.exists():
        return {}
    try:
        with path.open("rb") as file:
            content = tomllib.load(file)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise SettingsError(f"{path}: {reason}") from None
    values = content.get(process, {})
    problems = [f"{name} is not a table or name of this file" for name in content if name not in _PROCESSES + _SHARED]
    if not isinstance(values, dict):
        problems.append(f"{process} must be a table, [{process}]")
        values = {}
    problems += [f"{name} must stand outside of [{process}]" for name in _SHARED if name in values]
    if problems:
        raise SettingsError(*(f"{path}: {problem}" for problem in problems))
    return {**values, **{name: content[name] for name in _SHARED if name in content}}


def given_settings(process: str, names: Iterable[str]) -> dict[str, Any]:
    """What is set for this process: variables `MLX_BROKER_<NAME>` of the environment that are not empty, in any case,
    before the settings file. names: of all of its settings. Raises SettingsError."""
    wanted = {f"{PREFIX}{name}".lower(): name for name in names}
    variables = {wanted[key.lower()]: text for key, text in os.environ.items() if text and key.lower() in wanted}
    return read_settings_file(process) | variables


def mistakes(process: str, errors: Iterable[Mapping[str, Any]]) -> SettingsError:
    """What is wrong with the settings of this process, one line for each. errors: as pydantic has them."""
    return SettingsError(*(_mistake(process, error["loc"], error["type"], error["msg"]) for error in errors))


def _mistake(process: str, location: tuple[int | str, ...], kind: str, message: str) -> str:
    text = "there is no such setting" if kind == "extra_forbidden" else message.removeprefix("Value error, ")
    if not location:
        return text
    name = str(location[0])
    table = "" if name in _SHARED else f"[{process}] "
    variable = "" if name in _TABLES or kind == "extra_forbidden" else f" ({PREFIX}{name.upper()})"
    return f"{table}{'.'.join(map(str, location))}{variable}: {text}"
