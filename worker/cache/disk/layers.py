"""Key-value caches as arrays for files, and back. Only here do mlx-lm's caches and NumPy's arrays meet.

A cache that can be shortened is a list of layers with keys and values by token, cut into blocks of tokens; arrays of
equal shape and type become one in the file, layer after layer. Any other cache is kept whole, as what its layers call
their state. Functions with "read" in their names run in a thread with an MLX stream of its own, and copy without
holding Python's lock: other threads decode meanwhile.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

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
# The types of MLX that carry those in files.
_CARRIED = {**_TYPES, "BF16": mx.uint16}
_KINDS = {mlx_type: kind for kind, mlx_type in _TYPES.items()}

# Parts of one layer: keys and values, or what a quantised cache has of each.
_PLAIN_PARTS, _QUANTISED_PARTS = 2, 6

T = TypeVar("T")

# The array with the tokens of a tail.
_TOKENS = "tokens"

Arrays = list["np.ndarray[Any, Any]"]


@dataclass(slots=True, frozen=True)
class BlockForm:
    """How the parts of a cache by token lie in its files. layout: for each part the array that has it; facts: for the
    file."""

    layout: tuple[str, ...]
    facts: Mapping[str, str]

    def grouped(self, parts: Sequence[T]) -> dict[str, list[T]]:
        """The parts of each array, layer after layer."""
        groups: dict[str, list[T]] = {}
        for name, part in zip(self.layout, parts, strict=True):
            groups.setdefault(name, []).append(part)
        return groups


@dataclass(slots=True, frozen=True)
class Cut:
    """A cache by token, ready for threads. parts: of all layers, each (1, heads, tokens, numbers)."""

    parts: list[Tensor]
    form: BlockForm

    @property
    def block_bytes(self) -> int:
        return BLOCK * sum(int(part.data.nbytes) // int(part.data.shape[2]) for part in self.parts)

    def block(self, number: int) -> dict[str, Tensor]:
        """The arrays of one block. Uses no MLX."""
        return self._between(number * BLOCK, (number + 1) * BLOCK)

    def tail(self, tokens: list[int]) -> dict[str, Tensor]:
        """The arrays of what follows the last complete block, and its tokens. Uses no MLX."""
        begin = len(tokens) // BLOCK * BLOCK
        return {**self._between(begin, len(tokens)), _TOKENS: Tensor("I32", np.array(tokens[begin:], np.int32))}

    def _between(self, begin: int, end: int) -> dict[str, Tensor]:
        return {
            name: Tensor(parts[0].kind, np.concatenate([part.data[:, :, begin:end] for part in parts]))
            for name, parts in self.form.grouped(self.parts).items()
        }


def on_own_stream() -> None:
    """Gives this thread a stream of MLX, on the CPU: there is nothing to compute but memory to fill."""
    mx.set_default_stream(mx.new_stream(mx.cpu))


def is_quantised(layers: Sequence[Any]) -> bool:
    """Whether these layers are: all of a cache are, or none."""
    return isinstance(layers[0], QuantizedKVCache)


def form_of(layers: Sequence[Any]) -> BlockForm:
    """Of a cache by token that holds something."""
    groups: dict[Any, int] = {}
    forms = [(part.dtype, part.shape[1], part.shape[3]) for part in _all_parts(layers)]
    layout = [groups.setdefault(form, len(groups)) for form in forms]
    first = layers[0]
    quantised = [first.group_size, first.bits] if is_quantised(layers) else None
    facts = {"layout": json.dumps(layout), "quantised": json.dumps(quantised)}
    return BlockForm(tuple(map(str, layout)), facts)


def cut(layers: Sequence[Any]) -> Cut:
    """Of a cache that can be shortened; waits until it has been computed."""
    return Cut([_tensor(part) for part in _all_parts(layers)], form_of(layers))


def copies(form: BlockForm, parts: list[mx.array]) -> dict[str, mx.array]:
    """A copy of one block of a sequence that goes on, lazily: what shares memory with the caches of a live sequence
    would have them copied in whole in the next step. parts: as those of a Cut."""
    return {
        name: mx.concatenate(group) if len(group) > 1 else mx.contiguous(group[0])
        for name, group in form.grouped(parts).items()
    }


def tensors_of(form: BlockForm, computed: Mapping[str, mx.array]) -> dict[str, Tensor]:
    """Of copies that have been computed."""
    found = {name: _tensor(array) for name, array in computed.items()}
    # The copy of a single part may be none.
    single = [name for name in found if form.layout.count(name) == 1]
    return found | {name: Tensor(found[name].kind, found[name].data.copy()) for name in single}


def slices(layer: Any, row: int, begin: int, end: int) -> list[mx.array]:
    """The parts of one row of a layer between these tokens of its arrays, lazily."""
    return [part[row : row + 1, :, begin:end] for part in _all_parts([layer])]


@dataclass(slots=True, frozen=True)
class ReadCache:
    """What a file or several hold, in arrays of MLX whose types are still those that carry them. make: turns them into
    a cache; belongs to the engine's thread. tokens: that it holds."""

    tokens: int
    make: Callable[[], list[Any]]


class BlockReader:
    """Puts blocks that follow each other together. Mutable state: the arrays that they are copied into, with room for
    `most` tokens, made when the first block shows their form; the tokens so far."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._facts: Mapping[str, str] = {}
        self._first: list[tuple[str, str, tuple[int, ...]]] = []
        self._parts: list[tuple[str, mx.array]] = []
        self._views: dict[str, Arrays] = {}
        self._tokens = 0

    def add(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        """Raises DamagedError for one that does not fit to those before."""
        common = {name: facts.get(name, "") for name in ("layout", "quantised")}
        if not self._tokens:
            self._begin(tensors, common)
        elif common != self._facts or _forms(tensors) != self._first:
            raise DamagedError
        end = self._tokens + BLOCK
        for name, views in self._views.items():
            for view, data in zip(views, tensors[name].data, strict=True):
                view[0, :, self._tokens : end] = data
        self._tokens = end

    def add_tail(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str], tokens: list[int]) -> None:
        """As much of a tail as these tokens begin with; nothing of one that does not fit."""
        said = tensors[_TOKENS].data.tolist() if _TOKENS in tensors else []
        count = next((place for place, pair in enumerate(zip(said, tokens, strict=False)) if pair[0] != pair[1]), None)
        count = min(len(said), len(tokens)) if count is None else count
        begin, end = self._tokens, self._tokens + count
        if any(facts.get(name, "") != fact for name, fact in self._facts.items()):
            return
        for name, kind, (rows, heads, _, numbers) in self._first:
            found = tensors.get(name)
            if found is None or (found.kind, found.data.shape) != (kind, (rows, heads, len(said), numbers)):
                return
        for name, views in self._views.items():
            for view, data in zip(views, tensors[name].data, strict=True):
                view[0, :, begin:end] = data[:, :count]
        self._tokens = end

    def cache(self) -> ReadCache:
        """What has been added."""
        tokens, parts, quantised = self._tokens, self._parts, json.loads(self._facts["quantised"])
        self._views.clear()

        def make() -> list[Any]:
            typed = [_typed(kind, part) for kind, part in parts]
            step = _QUANTISED_PARTS if quantised else _PLAIN_PARTS
            layers = [typed[begin : begin + step] for begin in range(0, len(typed), step)]
            return [_layer(layer, tokens, quantised) for layer in layers]

        return ReadCache(tokens, make)

    def _begin(self, tensors: Mapping[str, Tensor], facts: Mapping[str, str]) -> None:
        layout = [str(group) for group in _layout(facts, tensors)]
        arrays = []
        for name in layout:
            _, heads, _, numbers = tensors[name].data.shape
            arrays.append(_empty(tensors[name], (1, heads, self._most, numbers)))
        mx.eval(arrays)
        self._parts = [(tensors[name].kind, array) for name, array in zip(layout, arrays, strict=True)]
        for name, array in zip(layout, arrays, strict=True):
            self._views.setdefault(name, []).append(np.asarray(array))
        self._facts, self._first = facts, _forms(tensors)


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
        copied = {place: _empty(tensor, tensor.data.shape) for place, tensor in tensors.items()}
        layer_kinds = [getattr(kinds, name) for name in names]
        if set(places) != copied.keys() | values.keys():
            raise DamagedError
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedError from error
    mx.eval(list(copied.values()))
    for place, array in copied.items():
        np.asarray(array)[...] = tensors[place].data
    arrays = {place: (tensor.kind, copied[place]) for place, tensor in tensors.items()}

    def make() -> list[Any]:
        flat = [(place, _typed(*arrays[place]) if place in arrays else values[place]) for place in places]
        return [kind.from_state(state) for kind, state in zip(layer_kinds, tree_unflatten(flat), strict=True)]

    return ReadCache(tokens, make)


def _all_parts(layers: Sequence[Any]) -> list[mx.array]:
    return [part for layer in layers for half in (layer.keys, layer.values) for part in _parts(half)]


def _parts(half: Any) -> list[mx.array]:
    return [half] if isinstance(half, mx.array) else list(half)


def _empty(like: Tensor, shape: tuple[int, ...]) -> mx.array:
    """For what this tensor carries; NumPy can write into it once it has been computed."""
    return mx.zeros(shape, _CARRIED[like.kind])


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
