"""The wire: what is encoded is decoded to the same; anything else that arrives is a ProtocolError that says why."""

import contextlib
import typing
from dataclasses import MISSING, fields
from types import NoneType
from typing import Any, TypeVar

import msgpack
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from broker.wire.body import Body, ProtocolError, from_map, to_map
from broker.wire.codec import COMMANDS, Message, decode, encode
from broker.wire.failure import Code, Failure
from broker.wire.frames import VERSION, gateway_of
from broker.wire.from_gateways import Cancel, InferenceRequest, InferenceRequests, Kill, Load, Unload
from broker.wire.from_peers import Heartbeat
from broker.wire.from_workers import Progress
from broker.wire.outputs import ERROR, FINAL, PARTIAL, Output, Outputs, decode_outputs, encode_outputs
from broker.wire.packing import pack, unpack
from broker.wire.work import Embed, Generate, Rerank

R1 = b"gateway1" + bytes(8)
R2 = b"gateway1" + bytes(7) + b"\x01"
FOREIGN = b"gateway2" + bytes(8)

MESSAGES = sorted(COMMANDS.values(), key=lambda cls: cls.COMMAND)
BODIES = [cls for cls in MESSAGES if cls is not Outputs]

T = TypeVar("T", bound=Body)

# A busy machine is no fault; every class of message has examples of its own.
bounded = settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.too_slow])

# ---- round trips --------------------------------------------------------------------------------------------------

text = st.text(max_size=20)
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.recursive(
    st.none() | st.booleans() | integers | floats | text | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(text, inner, max_size=4),
    max_leaves=10,
)
maps = st.dictionaries(text, values, max_size=5)
by_type: dict[Any, st.SearchStrategy[Any]] = {
    str: text,
    bytes: st.binary(max_size=50),
    int: integers,
    float: floats | integers,
    bool: st.booleans(),
    Code: st.sampled_from(Code),
    NoneType: st.none(),
    dict[str, Any]: maps,
    dict[str, str]: st.dictionaries(text, text, max_size=4),
    dict[str, float]: st.dictionaries(text, floats, max_size=4),
    list[str]: st.lists(text, max_size=4),
    list[int]: st.lists(integers, max_size=4),
    list[bytes]: st.lists(st.binary(max_size=50), max_size=4),
    list[Any]: st.lists(values, max_size=4),
    list[dict[str, Any]]: st.lists(maps, max_size=3),
}


def bodies(cls: type[T]) -> st.SearchStrategy[T]:
    """Any message of this class, its optional fields given or not."""
    hints = typing.get_type_hints(cls)
    required: dict[str, st.SearchStrategy[Any]] = {}
    optional: dict[str, st.SearchStrategy[Any]] = {}
    for field in fields(cls):  # type: ignore[arg-type]  # every Body is a dataclass
        parts = typing.get_args(hints[field.name]) if hints[field.name] not in by_type else (hints[field.name],)
        kind = st.one_of(*(by_type[part] for part in parts))
        is_required = field.default is MISSING and field.default_factory is MISSING
        (required if is_required else optional)[field.name] = kind
    return st.fixed_dictionaries(required, optional=optional).map(lambda given: cls(**given))


request_ids = st.binary(min_size=16, max_size=16)


@pytest.mark.parametrize("cls", BODIES, ids=lambda cls: cls.__name__)
@bounded
@given(data=st.data())
def test_what_is_encoded_is_decoded_to_the_same(cls: type[Body], data: st.DataObject) -> None:
    body = data.draw(bodies(cls))
    request_id = data.draw(request_ids | st.just(b""))
    assert decode(encode(body, request_id)) == Message(request_id, body)


@pytest.mark.parametrize("cls", [Generate, Embed, Rerank, Failure], ids=lambda cls: cls.__name__)
@bounded
@given(data=st.data())
def test_so_are_payloads_and_failures(cls: type[Body], data: st.DataObject) -> None:
    body = data.draw(bodies(cls))
    assert unpack(cls, pack(body)) == body
    assert from_map(cls, to_map(body)) == body


def test_fields_at_their_default_do_not_travel() -> None:
    assert pack(Generate(prompt="x", max_tokens=1)) == msgpack.packb({"prompt": "x", "max_tokens": 1})
    assert pack(Generate(prompt="x", seed=0)) == msgpack.packb({"prompt": "x", "seed": 0})


output_rows = st.tuples(st.binary(min_size=8, max_size=8), st.sampled_from([PARTIAL, FINAL, ERROR]), maps)


@bounded
@given(st.lists(output_rows, min_size=1, max_size=4))
def test_so_are_outputs_in_their_order(rows: list[tuple[bytes, int, dict[str, Any]]]) -> None:
    outputs = [Output(b"gateway1" + counter, kind, body) for counter, kind, body in rows]
    message = decode(encode_outputs(outputs))
    assert message.request_id == b""
    assert isinstance(message.body, Outputs)
    assert message.body.entries == [(o.request_id, o.kind) for o in outputs]
    assert decode_outputs(message.body) == outputs


def test_the_payload_of_a_request_travels_unread_in_a_frame_of_its_own() -> None:
    frames = encode(InferenceRequest("org/name", b"anything at all", "embed", b"alike", 2.5), R1)
    head = msgpack.packb({"model": "org/name", "task": "embed", "origin": b"alike", "keep_alive": 2.5})
    assert frames == [VERSION, b"REQUEST", R1, head, b"anything at all"]
    without_defaults = [*frames[:3], msgpack.packb({"model": "org/name"}), b""]
    assert decode(without_defaults).body == InferenceRequest("org/name", b"", "generate", b"")


def test_several_requests_travel_as_one_message() -> None:
    requests = [InferenceRequest("m", payload, "generate", b"o", 2.5, "t", 3) for payload in (b"one", b"two")]
    frames = encode(InferenceRequests.joined([R1, R2], requests))
    head = {"model": "m", "request_ids": [R1, R2], "origins": [b"o"] * 2, "keep_alive": 2.5, "trace": "t"}
    assert frames[:3] == [VERSION, b"REQUESTS", b""]
    assert msgpack.unpackb(frames[3]) == {**head, "resume_limit": 3}
    assert frames[4:] == [b"one", b"two"]
    body = decode(frames).body
    assert isinstance(body, InferenceRequests)
    assert list(body.each()) == list(zip([R1, R2], requests, strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"request_ids": [R1]}, "lists of different lengths"),
        ({"origins": [b""] * 3}, "lists of different lengths"),
        ({"payloads": []}, "lists of different lengths"),
        ({"request_ids": [R1, b"short"]}, "a request id that is not 16 bytes"),
        ({"request_ids": [R1, "R" * 16]}, "a request id that is not 16 bytes"),
        ({"origins": [b"", 1]}, "an origin that is not bytes"),
    ],
)
def test_several_requests_must_fit_together(changes: dict[str, Any], says: str) -> None:
    whole = {"model": "m", "request_ids": [R1, R2], "origins": [b""] * 2, "payloads": [b"one", b"two"], **changes}
    with pytest.raises(ProtocolError, match=says):
        list(InferenceRequests(**whole).each())


def test_a_request_id_begins_with_its_gateway() -> None:
    assert gateway_of(FOREIGN) == b"gateway2"


# ---- everything else ----------------------------------------------------------------------------------------------

GOOD = encode(Load("a"), R1)


@pytest.mark.parametrize(
    ("frames", "says"),
    [
        ([], "0 frames, at least 4 expected"),
        (GOOD[:3], "3 frames, at least 4 expected"),
        ([b"MB1", *GOOD[1:]], "version b'MB1', this side speaks b'MB2'"),
        ([VERSION, b"DANCE", *GOOD[2:]], "unknown command b'DANCE'"),
        ([*GOOD, b"more"], "LOAD with 5 frames"),
        (encode(InferenceRequest("a", b""), R1)[:4], "REQUEST with 4 frames"),
        ([*GOOD[:2], b"short", GOOD[3]], "request id of 5 bytes, 16 expected"),
        ([*GOOD[:3], b"\xc1"], "not msgpack"),
        ([*GOOD[:3], b""], "not msgpack"),
        ([*GOOD[:3], GOOD[3] + b"\x00"], "not msgpack"),
        ([*GOOD[:3], msgpack.packb(["a"])], "Load is a list, a map expected"),
        ([*GOOD[:3], msgpack.packb({})], "Load lacks model"),
        ([*GOOD[:3], msgpack.packb({"model": 1})], "Load.model is a int"),
        ([*GOOD[:3], msgpack.packb({"model": None})], "Load.model is a NoneType"),
        ([*GOOD[:3], msgpack.packb({"model": "a", "speed": 1})], "Load has no field 'speed'"),
        ([*GOOD[:3], b"\x81" * 2000], "not msgpack"),
        ([VERSION, b"ACK", b"", msgpack.packb({"total": True})], "Ack.total is a bool"),
        ([VERSION, b"UNLOAD", R1, msgpack.packb({"model": "a", "timeout": "1"})], "Unload.timeout is a str"),
        ([VERSION, b"OUTPUTS", b"", b""], "header of 0 bytes"),
        ([VERSION, b"OUTPUTS", R1, b""], "header of 16 bytes, a multiple of 17 expected"),
        ([VERSION, b"OUTPUTS", R1 + b"\x07", b""], "header with an unknown kind of output"),
        ([VERSION, b"OUTPUTS", R1 + b"\x01" + FOREIGN + b"\x01", b""], "header that mixes gateways"),
    ],
)
def test_what_is_wrong_is_named(frames: list[bytes], says: str) -> None:
    with pytest.raises(ProtocolError) as error:
        decode(frames)
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("bodies_frame", "says"),
    [
        (msgpack.packb([{}]), "bodies do not match a header of 2 outputs"),
        (msgpack.packb({}), "bodies do not match a header of 2 outputs"),
        (msgpack.packb([{}, 1]), "an output whose body is not a map"),
        (b"\xc1", "not msgpack"),
    ],
)
def test_bodies_must_match_their_header(bodies_frame: bytes, says: str) -> None:
    with pytest.raises(ProtocolError) as error:
        decode_outputs(Outputs([(R1, PARTIAL), (R2, FINAL)], bodies_frame))
    assert says in str(error.value)


def test_an_int_is_a_float_too_and_a_bool_is_neither() -> None:
    assert unpack(Unload, msgpack.packb({"model": "a", "timeout": 3})) == Unload("a", 3)
    with pytest.raises(ProtocolError, match=r"Unload\.timeout is a bool"):
        unpack(Unload, msgpack.packb({"model": "a", "timeout": True}))
    with pytest.raises(ProtocolError, match=r"Unload\.force is a int"):
        unpack(Unload, msgpack.packb({"model": "a", "force": 1}))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_number_without_a_value_is_none(value: float) -> None:
    with pytest.raises(ProtocolError, match=rf"Unload\.timeout is {value}"):
        unpack(Unload, msgpack.packb({"model": "a", "timeout": value}))


def decodes_or_says_why(frames: list[bytes]) -> None:
    """Either a message or a ProtocolError; anything else would end the loop of the process that reads it."""
    with contextlib.suppress(ProtocolError):
        message = decode(frames)
        if isinstance(message.body, Outputs):
            decode_outputs(message.body)


commands = st.sampled_from([cls.COMMAND for cls in MESSAGES]) | st.binary(max_size=8)
packed = st.binary(max_size=60) | values.map(msgpack.packb) | maps.map(msgpack.packb)
frame = packed | request_ids | st.sampled_from([b"", VERSION, R1 + b"\x00", R1 + b"\x01" + R2 + b"\x02"])


@bounded
@given(st.lists(frame, max_size=6))
def test_random_frames(frames: list[bytes]) -> None:
    decodes_or_says_why(frames)


@bounded
@given(st.just(VERSION) | st.binary(max_size=4), commands, frame, st.lists(frame, min_size=1, max_size=2))
def test_random_frames_that_look_like_messages(
    version: bytes, command: bytes, request_id: bytes, rest: list[bytes]
) -> None:
    decodes_or_says_why([version, command, request_id, *rest])


@pytest.mark.parametrize("cls", BODIES, ids=lambda cls: cls.__name__)
@bounded
@given(data=st.data())
def test_good_messages_with_random_fields(cls: type[Body], data: st.DataObject) -> None:
    frames = encode(data.draw(bodies(cls)), R1)
    names = [f.name for f in fields(cls)] + ["other"]  # type: ignore[arg-type]  # every Body is a dataclass
    body = msgpack.unpackb(frames[3]) | data.draw(st.dictionaries(st.sampled_from(names) | text, values, max_size=3))
    frames[3] = msgpack.packb(body)
    decodes_or_says_why(frames)


@bounded
@given(st.data())
def test_good_messages_with_flipped_bytes(data: st.DataObject) -> None:
    body = data.draw(
        st.sampled_from([Cancel(), Heartbeat(1, 2, 3, 4), Kill("a"), Unload("a", 1.5), Progress("x", 0.5)])
    )
    frames = encode(body, R1)
    n = data.draw(st.integers(0, len(frames) - 1))
    changed = bytearray(frames[n])
    changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    frames[n] = bytes(changed)
    decodes_or_says_why(frames)
