"""A vision model: loads its folder with mlx-vlm, renders chats, and makes prompts of text and images.

Never downloads, and never runs code that comes with a model. Knows no batch.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_lm.utils import load_tokenizer
from mlx_vlm.generate.common import _chunked_prefill_enabled
from mlx_vlm.generate.diffusion import is_diffusion_model
from mlx_vlm.prompt_utils import MODEL_CONFIG
from mlx_vlm.utils import (
    load_config,
    load_image_processor,
    load_model,
    load_processor,
    prepare_inputs,
    should_add_special_tokens,
)

from broker.wire.failure import invalid, named_line
from broker.wire.work import Generate
from worker.chat.chat import chat_of
from worker.chat.messages import plain_messages, text_of, text_of_part
from worker.chat.writer import Form
from worker.engine import Report
from worker.generation.prompt import text_tokens
from worker.loading.foreign_code import no_foreign_code
from worker.loading.layout import transpose_for_blas
from worker.loading.model_folder import (
    CONTEXT_KEYS,
    blame,
    first_int,
    read_weights,
    template_text,
    text_facts,
    tokenizer_settings,
)
from worker.process.device_errors import is_device_error
from worker.sound.resampling import Samples
from worker.vision.bounds import keep_in_bounds
from worker.vision.chats import FILES, chat_writer, files_in
from worker.vision.hearing import Features, hearing_of, thinking
from worker.vision.pictures import Picture

log = logging.getLogger("worker")

_MARK = re.compile("image|img|video|vision|audio", re.IGNORECASE)

_UNTRUSTED = {"trust_remote_code": False}

# Where configurations name the tokens that stand for images, videos and sounds.
_FILE_TOKENS = ("image_token_index", "image_token_id", "video_token_index", "video_token_id", "audio_token_id")

# Inputs with a number for each token, and what it is for one of a text.
_OF_TEXT = {"attention_mask": 1, "token_type_ids": 0, "mm_token_type_ids": 0}

# Feeds images to several layers in a form that mlx-vlm's batch mistakes for several prompts: any image ends the batch.
_NOT_IN_BATCHES = ("granite4_vision",)


@dataclass(slots=True, frozen=True)
class Prompt:
    """tokens: including those of images and sounds; inputs: of mlx-vlm, beside the tokens; heard: the features of its
    sounds."""

    tokens: list[int]
    inputs: dict[str, Any]
    heard: list[Features] = field(default_factory=list)

    @property
    def is_text(self) -> bool:
        """Whether the tokens are all that the model sees."""
        return self.inputs.keys() <= _OF_TEXT.keys() and not self.heard

    def followed_by(self, said: list[int]) -> "Prompt":
        """The prompt and tokens of a text behind it."""
        inputs = dict(self.inputs)
        for name, text in _OF_TEXT.items():
            if isinstance(inputs.get(name), mx.array):
                inputs[name] = mx.concatenate([inputs[name], mx.full((1, len(said)), text, inputs[name].dtype)], axis=1)
        return Prompt([*self.tokens, *said], inputs, self.heard)


class VisionModel:
    """A loaded model. vlm: as mlx-vlm has it; tokenizer: mlx-lm's wrapper; vocabulary, context_length: tokens, 0 if
    unknown; hearing: None if it does not hear."""

    def __init__(
        self, folder: Path, report: Report, chat_template: str | None = None, tool_form: str | None = None
    ) -> None:
        """chat_template: replaces the folder's own; its text or the path of its file. tool_form: of ChatWriter."""
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such model folder")
        with blame(folder, "config.json"):
            config = load_config(folder)
            if not isinstance(config.get("model_type"), str):
                raise ValueError("model_type is missing")
            if "model_file" in config:
                raise ValueError("model_file is not allowed: code that comes with a model is never run")
            if config["model_type"] in _NOT_IN_BATCHES:
                raise ValueError(f"{config['model_type']} is not supported: mlx-vlm cannot batch it")
            facts = text_facts(config)
        with blame(folder, "*.safetensors or config.json"):
            self.vlm: Any = load_model(folder, lazy=True, **_UNTRUSTED)
            lacks = [part for part in ("language_model", "get_input_embeddings") if not hasattr(self.vlm, part)]
            if is_diffusion_model(self.vlm) or lacks:
                raise ValueError(f"{config['model_type']} is not supported: it does not generate token by token")
        given = None if chat_template is None else template_text(chat_template)
        with blame(folder, "preprocessor_config.json or the tokenizer's files"), no_foreign_code():
            self._processor: Any = _load_processor(folder, self.vlm.config)
            tokenizer: Any = getattr(self._processor, "tokenizer", self._processor)
            template = given or getattr(self._processor, "chat_template", None) or tokenizer.chat_template
            # mlx-lm's wrapper knows how models mark tool calls and reasoning.
            self.tokenizer: Any = load_tokenizer(
                folder,
                tokenizer_settings(template),
                eos_token_ids=tokenizer.stopping_criteria.eos_token_ids,
            )
        self._writer = chat_writer(self._processor, self.vlm.config, self.tokenizer, tool_form)
        report("tokenizer", 1.0)
        transpose_for_blas(self.vlm, biased=False)
        keep_in_bounds(self.vlm)
        with blame(folder, "*.safetensors"):
            self.weights_bytes = read_weights(self.vlm, report)
        self._marks = re.compile("|".join(map(re.escape, sorted(_marks(self._processor, tokenizer)))) or r"(?!)")
        self.vocabulary = first_int(facts, ("vocab_size",)) or len(self.tokenizer)
        self.context_length = first_int(facts, CONTEXT_KEYS)
        self.hearing = hearing_of(self.vlm, self._processor)
        named = (getattr(thinking(self.vlm.config), name, None) for name in _FILE_TOKENS)
        self._file_tokens = {token for token in named if isinstance(token, int)}

    @property
    def language_model(self) -> Any:
        """The language model, for mlx-vlm's BatchGenerator."""
        return self.vlm.language_model

    @property
    def processor(self) -> Any:
        """mlx-vlm's."""
        return self._processor

    @property
    def takes_pixels(self) -> bool:
        """Whether `min_pixels` and `max_pixels` change what the model sees: processors of most families have a size of
        their own."""
        images = getattr(self._processor, "image_processor", None)
        return hasattr(images, "min_pixels") and hasattr(images, "max_pixels")

    def picture_tokens(self, pictures: list[Picture], pixels: dict[str, int]) -> int:
        """A lower bound of their tokens, from the sizes alone if the model's family can tell. pixels: of
        `pixels_wanted`. Raises FailureError."""
        pixels = pixels if self.takes_pixels else {}
        count = getattr(getattr(self._processor, "image_processor", None), "num_image_tokens", None)
        if not callable(count):
            return len(pictures)
        tokens = 0
        for picture in pictures:
            width, height = picture.size
            try:
                tokens += int(count(height, width, **pixels))
            except ValueError as error:
                raise invalid(f"{picture.where}: {error}", param=picture.where) from error
        return tokens

    def chat(self, request: Generate, messages: list[dict[str, Any]]) -> tuple[str, Form]:
        """The chat rendered by the model's template, with its marks for images and sounds, of which the k-th is
        `images[k]` or `audios[k]` of the request; and how the chat was written. Raises FailureError."""
        turns = plain_messages(messages, _parts)
        kind = self.vlm.config.model_type
        for name, part, files in (("images", "image", request.images), ("audios", "audio", request.audios)):
            count = sum(files_in(turn).count(part) for turn in turns)
            if count and part == "audio" and self.hearing is None:
                raise invalid("audios[0]: this model does not hear, it takes no audio", param="audios[0]")
            _check_roles(turns, part, name)
            if count != len(files):
                raise invalid(f"messages have {count} {name}, but {len(files)} came", param="messages")
            if count and kind.lower() not in MODEL_CONFIG:
                raise invalid(f"{name}[0]: mlx-vlm does not know how a {kind} model takes {name}", param=f"{name}[0]")
        if request.images or request.audios:
            said = {"messages": list(map(_with_parts, turns)), "tools": request.tools}
            self._refuse_marks({**said, "chat_template_kwargs": request.chat_template_kwargs})
        chat = chat_of(request, turns)
        form = self._writer.form(chat)
        return str(self._writer.render(form, form.apply(chat), tokenize=False)), form

    def _refuse_marks(self, said: dict[str, Any]) -> None:
        """Raises FailureError for a text that contains the mark of a file: processors count these marks, and some fail
        if there are too many."""
        for where, words in _strings(said):
            if found := self._marks.search(words):
                message = f"{where} must not contain {found[0]!r}: with files, the model takes it for one of them"
                raise invalid(message, param=where)

    def read_text(self, request: Generate) -> Prompt:
        """The prompt of a request without messages. Raises FailureError."""
        return self.prompt_of(text_tokens(request, self.tokenizer, self.vocabulary))

    def prompt_of(self, tokens: list[int]) -> Prompt:
        """Of a text."""
        return Prompt(tokens, {"attention_mask": mx.ones((1, len(tokens)), mx.int32)})

    def read_chat(self, text: str, images: list[Any], pixels: dict[str, int], sounds: Sequence[Samples] = ()) -> Prompt:
        """The prompt of a rendered chat and its decoded images and sounds, in order. pixels: of `pixels_wanted`. Raises
        FailureError."""
        bos = self.tokenizer.bos_token
        writes_marks = should_add_special_tokens(self.vlm.config.model_type, self._processor)
        with _client_mistakes():
            inputs = prepare_inputs(
                self._processor,
                images=images or None,
                audio=list(sounds) or None,
                prompts=text,
                image_token_index=getattr(self.vlm.config, "image_token_index", None),
                # Not twice: most templates begin with it.
                add_special_tokens=writes_marks and not (bos and text.startswith(bos)),
                **(pixels if self.takes_pixels else {}),
            )
        tokens: list[int] = inputs.pop("input_ids")[0].tolist()
        if self.hearing is None or not sounds:
            return Prompt(tokens, inputs)
        heard = self.hearing.features(inputs, sounds)
        return Prompt(tokens, inputs, heard)

    def see(self, prompt: Prompt) -> dict[str, Any]:
        """What BatchGenerator takes beside the tokens: the embeddings of text, images and sounds, computed. Raises
        FailureError."""
        others = dict(prompt.inputs)
        pixels, mask = others.pop("pixel_values", None), others.pop("attention_mask", None)
        with _client_mistakes():
            beside = {} if self.hearing is None else self.hearing.beside(prompt.heard)
            features = self.vlm.get_input_embeddings(mx.array([prompt.tokens]), pixels, mask=mask, **others, **beside)
            known = {name: value for name, value in features.to_dict().items() if value is not None}
            if self.hearing is not None:
                self.hearing.put(prompt.tokens, known, prompt.heard)
        mx.eval([value for value in known.values() if isinstance(value, mx.array)])
        return {**others, **known}

    def see_behind(self, prompt: Prompt, said: list[int]) -> tuple[Prompt, dict[str, Any]] | None:
        """The prompt with these tokens behind it, and what `see` has of both; None where the model would take some of
        them for the mark of a file, or cannot read on behind this prompt."""
        if not self._file_tokens.isdisjoint(said):
            return None
        whole = prompt.followed_by(said)
        try:
            return whole, self.see(whole)
        except Exception as error:
            if is_device_error(error):  # it says nothing about the model
                raise
            log.info("an answer is said again: behind its prompt it cannot be read: %s", named_line(error))
            return None

    def may_be_read_in_pieces(self, prompt: Prompt, seen: dict[str, Any]) -> bool:
        """Whether prefill in pieces gives the same: some families attend to a prompt in both directions. seen: of
        `see`."""
        tokens = mx.array([prompt.tokens])
        embeds = seen["inputs_embeds"]
        return bool(_chunked_prefill_enabled(self.vlm, input_ids=tokens, inputs_embeds=embeds, prefill_kwargs=seen))


def _parts(content: Any, where: str) -> Any:
    """A message's content for mlx-vlm: a string, or parts in their order if there are files among them."""
    if not isinstance(content, list) or not any(map(_is_file, content)):
        return text_of(content, where)
    for index, part in enumerate(content):
        if not _is_file(part):
            text_of_part(part, f"{where}.parts[{index}]")
    return content


def _check_roles(turns: list[dict[str, Any]], part: str, name: str) -> None:
    """Raises FailureError for a file in a role that cannot have any."""
    place = 0
    for turn in turns:
        count = files_in(turn).count(part)
        if count and turn["role"] != "user":
            message = f"{name}[{place}]: {name} are allowed in messages of the role user only"
            raise invalid(message, param=f"{name}[{place}]")
        place += count


def _with_parts(turn: dict[str, Any]) -> dict[str, Any]:
    """The turn under the names that errors have for its fields: a list of parts is `parts`."""
    return {"parts" if name == "content" and isinstance(value, list) else name: value for name, value in turn.items()}


def _is_file(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in FILES


def _strings(value: Any, where: str = "") -> Iterator[tuple[str, str]]:
    """Every text within, with the name of its field."""
    if isinstance(value, str):
        yield where, value
    elif isinstance(value, list):
        for index, entry in enumerate(value):
            yield from _strings(entry, f"{where}[{index}]")
    elif isinstance(value, dict):
        for name, entry in value.items():
            yield where, name
            yield from _strings(entry, f"{where}.{name}" if where else name)


def _marks(processor: Any, tokenizer: Any) -> set[str]:
    """The marks of the model's family for images, videos and audio, and around them."""
    names = (getattr(processor, f"{kind}_token", None) for kind in ("image", "video", "audio"))
    marks = {name for name in names if isinstance(name, str) and name}
    return marks | {name for name in tokenizer.get_added_vocab() if _MARK.search(name)}


@contextmanager
def _client_mistakes() -> Iterator[None]:
    """A ValueError of mlx-vlm is the client's mistake: an image that is too long and narrow, an image's mark in a
    text."""
    try:
        yield
    except ValueError as error:
        raise invalid(f"messages: the model cannot take them: {error}", param="messages") from error


def _load_processor(folder: Path, config: Any) -> Any:
    processor = load_processor(folder, True, eos_token_ids=getattr(config, "eos_token_id", None), **_UNTRUSTED)
    images = load_image_processor(folder, **_UNTRUSTED)
    if images is not None:
        processor.image_processor = images
    return processor
