"""Payloads to requests of a vision engine: what can be said of them before a file is decoded."""

from broker.wire.failure import invalid
from broker.wire.packing import unpack
from broker.wire.work import Generate
from worker.begun import begun_of
from worker.generation.echo import reciting
from worker.generation.generation import Generation
from worker.generation.prompt import checked_ids
from worker.vision.model import VisionModel
from worker.vision.pictures import Picture, check_pixels, open_picture, pixels_wanted
from worker.vision.requests import Waiting
from worker.vision.sounds import Recording, open_sounds


def read_request(
    payload: bytes, model: VisionModel, generation: Generation, most_pixels: int, *, counts: bool = False
) -> Waiting:
    """A request, its files not decoded yet. most_pixels: of an image. counts: its prompt is to be counted only. Raises
    FailureError and ProtocolError."""
    request = unpack(Generate, payload)
    begun = None if counts else begun_of(request)
    said = [] if begun is None else checked_ids(begun.ids, model.vocabulary, "begun.ids")
    sampler, processors = generation.sampling(request, len(said))
    generation.check_characters(request, counts=counts)
    prompt, text, form, echo = None, "", None, None
    pictures: list[Picture] = []
    sounds: list[Recording] = []
    pixels = pixels_wanted(request, most_pixels)
    if request.images and request.messages is None:
        raise invalid("images belong in messages", param="messages")
    if request.audios and request.messages is None:
        raise invalid("audio belongs in messages", param="messages")
    if request.messages is None or request.prompt is not None:
        prompt = model.read_text(request)
        echo = generation.echo(request, prompt.tokens)
        if echo is not None and echo.drawn and begun is None:
            prompt = model.prompt_of(echo.recited[:1])
            sampler = reciting(echo.recited[1:], sampler)
    else:
        text, form = model.chat(request, request.messages)
        pictures = [open_picture(data, f"images[{k}]", most_pixels) for k, data in enumerate(request.images)]
        check_pixels(pictures)
        sounds = open_sounds(request.audios)
        if not pictures and not sounds:
            prompt = model.read_chat(text, [], {})
    return Waiting(request, sampler, processors, prompt, text, pictures, form, pixels, echo, begun, sounds)
