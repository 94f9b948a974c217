"""Answers that begin in one process and go on in another: cut after each output."""

from collections.abc import Collection
from typing import Any

from broker.wire.outputs import PARTIAL, Output
from tests.worker.engine_runs import joined, run
from worker.engine import Engine


def begun_after(outputs: list[Output]) -> dict[str, Any]:
    """The `begun` that a gateway sends after these outputs."""
    ids: list[int] = []
    characters = cached = 0
    for output in outputs:
        body = output.body
        told = body.get("ids", [])
        ids += told if isinstance(told, list) else [told]
        arguments = sum(len(call["arguments"]) for call in body.get("tool_calls", ()))
        characters += len(body["text"]) + len(body.get("reasoning", "")) + arguments
        cached = body.get("prompt", {}).get("cached", cached)
    return {"ids": ids, "characters": characters, "cached": cached}


def assert_goes_on(engine: Engine, following: Engine, **fields: Any) -> list[Output]:
    """For every cut of the answer of `engine`, `following` says the rest of it, all cuts together as after a death. The
    answer, undisturbed."""
    fields = {"tells_tokens": True, "key": "a key", **fields}
    (whole,) = run(engine, [fields])
    assert len(whole) > 1
    requests = [{**fields, "begun": begun_after(whole[:cut])} for cut in range(1, len(whole))]
    for cut, (request, rest) in enumerate(zip(requests, run(following, requests), strict=True), 1):
        said, but = whole[:cut], set[str]()
        if not (request["begun"]["ids"] or request["begun"]["characters"]):
            # Nothing has been said yet: the answer begins anew, and may find its prompt in the cache.
            said, but = [], {"cached", "cached_tokens"}
        assert plain(joined([*said, *rest]), but) == plain(joined(whole), but), (
            f"cut after {cut} of {len(whole)} outputs"
        )
        for told, again in zip(whole[len(said) :], rest, strict=True):
            assert plain(told.body, but) == plain(again.body, but)
    return whole


def assert_clear(engine: Engine, **fields: Any) -> None:
    """The likeliest token is everywhere so much likelier than the next that rounding decides nothing."""
    (outputs,) = run(engine, [{**fields, "stream": False, "logprobs": 2}])
    for entry in joined(outputs)["logprobs"]:
        first, second = entry["top"]
        assert first["logprob"] - second["logprob"] > 1e-3


def plain(value: Any, but: Collection[str] = ()) -> Any:
    """With log-probabilities to three digits: sums of floats depend on the order of their terms. but: fields that are
    left out."""
    if isinstance(value, dict):
        return {name: plain(entry, but) for name, entry in value.items() if name not in but}
    if isinstance(value, list):
        return [plain(entry, but) for entry in value]
    return f"{value:.3f}" if isinstance(value, float) else value


def told(outputs: list[Output]) -> list[int]:
    """The tokens that these outputs have told."""
    return list(begun_after([output for output in outputs if output.kind == PARTIAL])["ids"])
