"""Sounds in chats, as OpenAI's client sends them, on their way to the wire and back as errors."""

import base64
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from broker.wire.failure import Code, Failure
from broker.wire.from_gateways import InferenceRequest
from broker.wire.packing import unpack
from broker.wire.work import Generate
from tests.gateway.played_broker import ending
from tests.gateway.served import served
from tests.gateway.test_second_link import ScriptedLink

pytestmark = pytest.mark.anyio

SOUND = b"RIFF0000WAVE"
CHAT: Any = [
    {
        "role": "user",
        "content": [
            {"type": "text", "text": "What is said?"},
            {"type": "input_audio", "input_audio": {"data": base64.b64encode(SOUND).decode(), "format": "wav"}},
        ],
    }
]


async def ask(link: ScriptedLink) -> Any:
    async with (
        served(link) as client,
        AsyncOpenAI(base_url=f"{client.base_url}/v1", api_key="none", max_retries=0) as speaker,
    ):
        return await speaker.chat.completions.create(model="org/tiny", messages=CHAT, n=2)


async def test_a_sound_travels_beside_the_messages() -> None:
    link = ScriptedLink([ending("A word.")])
    got = await ask(link)
    assert [choice.message.content for choice in got.choices] == ["A word.", "A word."]
    for asked in link.asked:
        assert isinstance(asked.body, InferenceRequest)
        work = unpack(Generate, asked.body.payload)
        assert work.audios == [SOUND]
        assert work.messages is not None
        assert work.messages[0]["content"][1] == {"type": "audio"}


async def test_a_model_that_does_not_hear_is_said_in_the_clients_words() -> None:
    failure = Failure(Code.INVALID_REQUEST, "audios[0]: this model does not hear, it takes no audio", "audios[0]")
    with pytest.raises(openai.BadRequestError) as raised:
        await ask(ScriptedLink([ending()], failure))
    assert raised.value.param == "messages[0].content[1]"
    assert "messages[0].content[1]: this model does not hear" in raised.value.message
