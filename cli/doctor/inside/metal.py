"""`python -m cli.doctor.inside.metal [--compare]`: what MLX says about this machine, as one line of JSON.

--compare: whether a row of a product is the same alone as in a batch, for three kinds of weights.
"""

import json
import sys
import time
from collections.abc import Callable

_started = time.monotonic()

import mlx.core as mx  # noqa: E402 # its import is measured

_ROWS, _INNER, _OUTER = 8, 2048, 2048

Product = Callable[[mx.array], mx.array]


def facts() -> dict[str, object]:
    """Of the device."""
    mx.eval(mx.zeros(1))
    seconds = time.monotonic() - _started
    device = dict(mx.device_info())
    return {"metal": mx.metal.is_available(), "device": device, "import_seconds": seconds}


def products() -> dict[str, Product]:
    """Products with weights of three kinds."""
    weights = mx.random.normal((_OUTER, _INNER), key=mx.random.key(1)) * _INNER**-0.5
    half = weights.astype(mx.bfloat16)
    packed, scales, biases = mx.quantize(weights, group_size=64, bits=4)
    return {
        "float32": lambda x: x @ weights.T,
        "bfloat16": lambda x: x.astype(mx.bfloat16) @ half.T,
        "4 bits": lambda x: mx.quantized_matmul(x, packed, scales, biases, transpose=True, group_size=64, bits=4),
    }


def compare() -> dict[str, object]:
    """For each kind the largest difference, relative to the largest number; 0 if all are the same."""
    rows = mx.random.normal((_ROWS, _INNER), key=mx.random.key(2))
    differences = {}
    for name, product in products().items():
        together = product(rows)
        alone = mx.concatenate([product(rows[i : i + 1]) for i in range(_ROWS)])
        largest = mx.max(mx.abs(together - alone)) / mx.max(mx.abs(together))
        differences[name] = _number(largest)
    return {"differences": differences}


def _number(value: mx.array) -> float:
    found = value.astype(mx.float32).item()
    assert isinstance(found, float)
    return found


if __name__ == "__main__":
    sys.stdout.write(json.dumps(compare() if "--compare" in sys.argv else facts()) + "\n")
