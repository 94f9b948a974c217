"""Key-value caches as arrays for files, and back. Only here do mlx-lm's caches and NumPy's arrays meet.

A cache that can be shortened is a list of layers with keys and values by token, cut into blocks of tokens; arrays of
equal shape and type become one in the file, layer after layer. Any other cache is kept whole, as what its layers call
their state. Functions with "read" in their names run in a thread that has no stream of MLX: they may make arrays and
must compute none.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mlx.core as mx
import numpy as np
from mlx.utils import tree_flatten, tree_unflatten
from mlx_lm.models import cache as kinds
from mlx_lm.models.cache import KVCache, QuantizedKVCache

from worker.cache.disk.files import CARRIERS, DamagedError, Tensor
from worker.cache.disk.naming import BLOCK

_TYPES = {
    "F32": mx.float32,
    "F16": mx.float16,
    "BF16": mx.bfloat16,
    "I64": mx.int64,
    "I32": mx.int32,
    "I16": mx.int16,
    "I8": mx.int8,
    "U64": mx.uint64,
    "U32": mx.uint32,
    "U16": mx.uint16,
    "U8": mx.uint8,
    "BOOL": mx.bool_,
    "C64": mx.complex64,
}
_KINDS = {mlx_type: kind for kind, mlx_type in _TYPES.items()}

# Parts of one layer: keys and values, or what a quantised cache has of each.
_PLAIN_PARTS, _QUANTISED_PARTS = 2, 6

Arrays = list["np.ndarray[Any, Any]"]


@dataclass(slots=True, frozen=True)
class Cut:
    """A cache by token, ready for threads. parts: of all layers, each (1, heads, tokens, numbers); facts: for the
    file."""

    parts: list[Tensor]
    facts: dict[str, str]

    @property
    def block_bytes(self) -> int:
        return BLOCK * sum(int(part.data.nbytes) // int(part.data.shape[2]) for part in self.parts)

    def block(self, number: int) -> dict[str, Tensor]:
        """The arrays of one block. Uses no MLX."""
        begin = number * BLOCK
        groups: dict[str, tuple[str, Arrays]] = {}
        for group, part in zip(json.loads(self.facts["layout"]), self.parts, strict=True):
            groups.setdefault(str(group), (part.kind, []))[1].append(part.data[:, :, begin : begin + BLOCK])
        return {name: Tensor(kind, np.concatenate(data)) for name, (kind, data) in groups.items()}


def is_quantised(layers: Sequence[Any]) -> bool:
    """Whether these layers are: all of a cache are, or none."""
    return isinstance(layers[0], QuantizedKVCache)


def cut(layers: Sequence[Any]) -> Cut:
    """Of a cache that can be shortened; waits until it has been computed."""
    parts = [part for layer in layers for half in (layer.keys, layer.values) for part in _parts(half)]
    return Cut([_tensor(part) for part in parts], _facts(layers, parts))


def live_block(layers: Sequence[Any], parts: list[mx.array]) -> tuple[dict[str, Tensor], dict[str, str], int]:
    """A copy of one block of a sequence that goes on, its facts and bytes; waits until it has been computed: what
    shares memory with the caches of a live sequence would have them copied in whole in the next step. layers: of what
    kinds; parts: as those of a Cut, lazily."""
    groups: dict[str, list[mx.array]] = {}
    facts = _facts(layers, parts)
    for group, part in zip(json.loads(facts["layout"]), parts, strict=True):
        groups.setdefault(str(group), []).append(part)
    copies = {
        name: mx.concatenate(group) if len(group) > 1 else mx.contiguous(group[0]) for name, group in groups.items()
    }
    mx.eval(list(copies.values()))
    tensors = {
        name: tensor if len(groups[name]) > 1 else Tensor(tensor.kind, tensor.data.copy())
        for name, tensor in ((name, _tensor(array)) for name, array in copies.items())
    }
    return tensors, facts, sum(tensor.data.nbytes for tensor in tensors.values())


def slices(layer: Any, row: int, begin: int, end: int) -> list[mx.array]:
    """The parts of one row of a layer between these tokens of its arrays, lazily."""
    return [part[row : row + 1, :, begin:end] for half in (layer.keys, layer.values) for part in _parts(half)]


@dataclass(slots=True, frozen=True)
class ReadCache:
    """What a file or several hold, in arrays of MLX whose types are still those that carry them. make: turns them into
    a cache; belongs to the engine's thread. tokens: that it holds."""

    tokens: int
    nbytes: int
    make: Callable[[], list[Any]]


def read_blocks(blocks: list[tuple[dict[str, Tensor], dict[str, str]]]) -> ReadCache:
    """Blocks that follow each other. Raises DamagedError for those that do not fit together."""
    first, facts = blocks[0]
    layout = _layout(facts, first)
    if any(others != facts or _forms(tensors) != _forms(first) for tensors, others in blocks):
        raise DamagedError
    joined = {name: np.concatenate([tensors[name].data for tensors, _ in blocks], axis=2) for name in first}
    rows = dict.fromkeys(first, 0)
    parts: list[tuple[str, mx.array]] = []
    for group in map(str, layout):
        row = rows[group]
        parts.append((first[group].kind, mx.array(joined[group][row : row + 1])))
        rows[group] = row + 1
    tokens, quantised = len(blocks) * BLOCK, json.loads(facts["quantised"])
    nbytes = sum(data.nbytes for data in joined.values())

    def make() -> list[Any]:
        typed = [_typed(kind, part) for kind, part in parts]
        step = _QUANTISED_PARTS if quantised else _PLAIN_PARTS
        layers = [typed[begin : begin + step] for begin in range(0, len(typed), step)]
        return [_layer(layer, tokens, quantised) for layer in layers]

    return ReadCache(tokens, nbytes, make)


def can_be_whole(layers: Sequence[Any]) -> bool:
    """Whether a file can hold a cache of these kinds: all are mlx-lm's own."""
    return all(
        getattr(kinds, type(layer).__name__, None) is type(layer) and can_be_whole(getattr(layer, "caches", ()))
        for layer in layers
    )


def whole(layers: Sequence[Any]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The state of all layers, and the facts for its file; waits until it has been computed."""
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    state: Any = tree_flatten([layer.state for layer in layers])
    for place, value in state:
        if isinstance(value, mx.array):
            tensors[place] = _tensor(value)
        else:
            values[place] = value
    facts = {"values": json.dumps(values), "kinds": json.dumps([type(layer).__name__ for layer in layers])}
    return tensors, {**facts, "places": json.dumps([place for place, _ in state])}


def read_whole(tensors: Mapping[str, Tensor], facts: Mapping[str, str], tokens: int) -> ReadCache:
    """The whole cache in a file. Raises DamagedError."""
    try:
        values, names, places = (json.loads(facts[name]) for name in ("values", "kinds", "places"))
        arrays = {place: (tensor.kind, mx.array(tensor.data)) for place, tensor in tensors.items()}
        layer_kinds = [getattr(kinds, name) for name in names]
        if set(places) != arrays.keys() | values.keys():
            raise DamagedError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError from error

    def make() -> list[Any]:
        flat = [(place, _typed(*arrays[place]) if place in arrays else values[place]) for place in places]
        return [kind.from_state(state) for kind, state in zip(layer_kinds, tree_unflatten(flat), strict=True)]

    return ReadCache(tokens, sum(tensor.data.nbytes for tensor in tensors.values()), make)


def _parts(half: Any) -> list[mx.array]:
    return [half] if isinstance(half, mx.array) else list(half)


def _facts(layers: Sequence[Any], parts: Sequence[mx.array]) -> dict[str, str]:
    """layout: the array in the file that has each part."""
    groups: dict[Any, int] = {}
    forms = [(part.dtype, part.shape[1], part.shape[3]) for part in parts]
    layout = [groups.setdefault(form, len(groups)) for form in forms]
    first = layers[0]
    quantised = [first.group_size, first.bits] if is_quantised(layers) else None
    return {"layout": json.dumps(layout), "quantised": json.dumps(quantised)}


def _layout(facts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> list[int]:
    try:
        layout: list[int] = json.loads(facts["layout"])
        sizes = {name: layout.count(int(name)) for name in tensors}
        parts = _QUANTISED_PARTS if json.loads(facts["quantised"]) else _PLAIN_PARTS
        shapes = [(tensor.data.shape[0], tensor.data.shape[2]) for tensor in tensors.values()]
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise DamagedError from error
    if (
        shapes != [(size, BLOCK) for size in sizes.values()]
        or sum(sizes.values()) != len(layout)
        or len(layout) % parts
    ):
        raise DamagedError
    return layout


def _forms(tensors: Mapping[str, Tensor]) -> list[tuple[str, str, tuple[int, ...]]]:
    return [(name, tensor.kind, tensor.data.shape) for name, tensor in tensors.items()]


def _layer(parts: list[mx.array], tokens: int, quantised: Any) -> Any:
    if quantised is None:
        layer: Any = KVCache()
        layer.keys, layer.values = parts
    else:
        group_size, bits = quantised
        layer = QuantizedKVCache(group_size=group_size, bits=bits)
        layer.keys, layer.values = tuple(parts[:3]), tuple(parts[3:])
    layer.offset = tokens
    return layer


def _tensor(array: mx.array) -> Tensor:
    """Shares memory with the array."""
    kind = _KINDS[array.dtype]
    carried = array.view(mx.uint16) if array.dtype == mx.bfloat16 else array
    return Tensor(kind, np.asarray(carried))


def _typed(kind: str, carried: mx.array) -> mx.array:
    wanted = _TYPES[kind]
    return carried if carried.dtype == wanted else carried.view(wanted)


assert CARRIERS.keys() == _TYPES.keys()
