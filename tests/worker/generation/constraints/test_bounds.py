"""What llguidance must never read, and what it must: schemas and grammars that are chained, wide or nested."""

import json
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest

from broker.wire.failure import Code, FailureError
from tests.timing import assert_cheap
from worker.generation.constraints.bounds import check_grammar, check_schema
from worker.generation.constraints.native import check_readable

Schema = dict[str, Any]


def chain(length: int, link: Callable[[Schema], Schema]) -> Schema:
    names = [f"d{number}" for number in range(length)]
    links = {name: link({"$ref": f"#/$defs/{after}"}) for name, after in pairwise(names)}
    return {"$ref": "#/$defs/d0", "$defs": {**links, names[-1]: {"type": "string"}}}


def in_object(inner: Schema) -> Schema:
    return {"type": "object", "properties": {"a": inner}}


def in_much(inner: Schema) -> Schema:
    return in_object({"type": "array", "items": {"anyOf": [in_object(inner), {"type": "null"}]}})


def bare(inner: Schema) -> Schema:
    return inner


def nested(depth: int) -> Schema:
    schema: Schema = {"type": "string"}
    for _ in range(depth):
        schema = in_object(schema)
    return schema


def by_anchor(length: int) -> Schema:
    links = {f"d{n}": {"$anchor": f"a{n}", "items": {"$ref": f"#a{n + 1}"}} for n in range(length)}
    return {"$ref": "#a0", "$defs": {**links, "last": {"$anchor": f"a{length}"}}}


def refused(schema: Schema) -> str:
    with pytest.raises(FailureError) as raised:
        check_schema(schema, "json_schema")
    assert (raised.value.failure.code, raised.value.failure.param) == (Code.INVALID_REQUEST, "json_schema")
    return raised.value.failure.message


@pytest.mark.parametrize("link", [bare, in_object, in_much])
def test_a_chain_of_references(link: Callable[[Schema], Schema]) -> None:
    assert "100 levels, references included" in refused(chain(1000, link))
    assert "1000 definitions" in refused(chain(1200, link)) or link is in_much
    short = chain(20, link)
    check_schema(short, "json_schema")
    check_readable(short)


@pytest.mark.parametrize("link", [in_object, in_much])
def test_the_order_of_definitions_does_not_matter(link: Callable[[Schema], Schema]) -> None:
    long = chain(400, link)
    definitions = dict(reversed(long["$defs"].items()))
    choices = [{"$ref": f"#/$defs/{name}"} for name in definitions]
    assert "levels" in refused({"$defs": definitions, "anyOf": choices})
    back = {name: {**schema, "title": "x", "not": {"$ref": "#"}} for name, schema in long["$defs"].items()}
    assert "levels" in refused({**long, "$defs": back})


def test_references_by_anchor_count_too() -> None:
    assert "levels" in refused(by_anchor(500))
    check_schema(by_anchor(30), "json_schema")


def test_schemas_that_contain_themselves_are_fine() -> None:
    tree = {"type": "object", "properties": {"left": {"$ref": "#"}, "right": {"$ref": "#/$defs/node"}}}
    schema = {**tree, "$defs": {"node": {"anyOf": [{"$ref": "#"}, {"$ref": "#/$defs/node"}, {"type": "null"}]}}}
    check_schema(schema, "json_schema")


def test_references_that_lead_nowhere_are_for_others_to_refuse() -> None:
    for reference in ("#/$defs/none", "#/anyOf/7", "#/anyOf/x", "https://example.org/x", "#gone", 7):
        check_schema({"anyOf": [{"$ref": reference}]}, "json_schema")


def test_nesting_width_and_size() -> None:
    assert "nest deeper than 64" in refused(nested(40))
    assert "nest deeper than 64" in refused(nested(100_000))
    check_schema(nested(20), "json_schema")
    assert "10000 subschemas" in refused({"anyOf": [{} for _ in range(10_000)]})
    check_schema({"properties": {f"p{number}": {"type": "integer"} for number in range(3000)}}, "json_schema")
    assert "256000 bytes" in refused({"enum": ["x" * 256_000]})
    check_schema({"enum": [f"value {number}" for number in range(10_000)]}, "json_schema")


def test_data_is_no_schema() -> None:
    data = {"$ref": "#/$defs/none", "$defs": {str(number): {} for number in range(2000)}}
    for keyword in ("const", "default"):
        check_schema({keyword: data}, "json_schema")
    check_schema({"enum": [data], "examples": [data]}, "json_schema")


def rules(count: int, separator: str = "\n") -> str:
    return separator.join([f"r{number}: r{number + 1}" for number in range(count)] + [f'r{count}: "a"\n'])


@pytest.mark.parametrize(
    "grammar",
    [
        "start: r0\n" + rules(6500),
        "start: r0\r\n" + rules(600, "\r\n"),
        "start: R0\n" + rules(600).replace("r", "R"),
        "start: r0\n" + rules(600).replace(":", " \t:"),
        "start: r0\n" + rules(600).replace(":", ".1:"),
        "start: r0\n" + rules(600).replace(":", "[lazy]:"),
        "start: r0\n" + "".join(f"?r{n}: r{n + 1}\n" for n in range(600)) + 'r600: "a"',
        f"start: %json {json.dumps(chain(1000, in_object))}",
        f"start: %json\n{json.dumps(chain(400, in_much))}",
        "start: %json " + '{"items": ' * 100_000,
        "start: %json {",
    ],
)
def test_a_grammar_of_many_rules(grammar: str) -> None:
    with pytest.raises(FailureError) as raised:
        check_grammar(grammar)
    assert (raised.value.failure.code, raised.value.failure.param) == (Code.INVALID_REQUEST, "grammar")


def test_grammars_that_are_fine() -> None:
    for grammar in (
        "start: r0\n" + rules(400),
        'start: "a:b" | /a:b/\n',
        f"start: %json {json.dumps(chain(20, in_much))} r0\n" + rules(3),
        "start: " + " ".join(f'"{n}"' for n in range(5000)),
    ):
        check_grammar(grammar)


@pytest.mark.parametrize(
    "text", ["a" * 100_000, "a{" * 50_000, "a[" * 50_000, "a " * 50_000, "a" + " " * 100_000, "::a" * 30_000]
)
def test_rules_are_counted_in_one_pass(text: str) -> None:
    assert_cheap(1, lambda: check_grammar("start: " + text))
