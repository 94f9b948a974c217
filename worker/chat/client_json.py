"""JSON that a client sends inside JSON, such as the arguments of a call: one rule, and one error that names the field.

Must stay free of mlx.
"""

import json
import math
from typing import Any, NoReturn

from broker.wire.failure import invalid

# Far more than anyone writes, far less than what the programs that walk over it can take.
MAX_DEPTH = 100


def client_object(value: Any, where: str) -> dict[str, Any]:
    """The object that the field `where` has, as JSON text or as it is; no text is an empty one. Raises FailureError."""
    if isinstance(value, str):
        try:
            value = json.loads(value.strip() or "{}", parse_constant=_refuse_constant)
        except RecursionError as error:
            raise _too_deep(where) from error
        except ValueError as error:
            raise invalid(f"{where} is not JSON: {error}", param=where) from error
    elif value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"{where} must be a JSON object", param=where)
    check_json(value, where)
    return value


def check_json(value: Any, where: str) -> None:
    """Raises FailureError for what is nested too deeply, for a number beyond JSON's, and for half a surrogate pair."""
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Any] = []
        for entry in level:
            if isinstance(entry, dict):
                inner += entry.keys()
                inner += entry.values()
            elif isinstance(entry, list | tuple):
                inner += entry
            elif isinstance(entry, float) and not math.isfinite(entry):
                raise invalid(f"{where} has a number that JSON cannot write", param=where)
            elif isinstance(entry, str) and not _is_text(entry):
                raise invalid(f"{where} has half a surrogate pair, which is no text", param=where)
        if not inner:
            return
        level = inner
    raise _too_deep(where)


def _too_deep(where: str) -> Exception:
    return invalid(f"{where} is nested deeper than {MAX_DEPTH} levels", param=where)


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")
