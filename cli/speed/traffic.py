"""Sends streamed chats to a gateway and notes when the answers' pieces come: a thread for each stream.

Its threads are daemons: when the process ends, by Ctrl-C too, the connections close, and the gateway cancels what runs.
"""

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from cli.errors import CliError
from cli.gateway import Gateway, Json
from cli.speed.streams import Level, TimedAnswer, level_of, read_stream

_WORDS = (
    *("apple", "river", "stone", "cloud", "garden", "window", "paper", "music", "winter", "summer", "market", "bridge"),
    *("forest", "island", "mirror", "engine", "candle", "letter", "silver", "copper", "valley", "thunder", "harbor"),
    *("meadow", "lantern", "pepper", "carpet", "ladder", "basket", "pocket", "rocket", "planet"),
)
# Also keeps most models talking until they have reached max_tokens.
_TASK = "Write a very long story that has these words in it:"
_CALIBRATION_WORDS = 64
_CHAT = "/v1/chat/completions"


@dataclass(slots=True)
class Prompts:
    """Prompts of about so many tokens, of which no two begin alike: no prompt cache may help.

    tokens_per_word, overhead: of this model, once `calibrate` has measured them.
    """

    tokens_per_word: float = 1.0
    overhead: float = 0.0
    is_calibrated: bool = False
    _draw: random.Random = field(default_factory=random.Random)

    def text(self, words: int) -> str:
        """Of this many words and the task."""
        drawn = " ".join(self._draw.choice(_WORDS) for _ in range(words))
        return f"{drawn}. {_TASK}"

    def of_tokens(self, tokens: int) -> str:
        """As many words as give about this many tokens, with a model's template."""
        return self.text(max(1, round((tokens - self.overhead) / self.tokens_per_word)))

    def calibrate(self, ask: Callable[[str], TimedAnswer]) -> None:
        """Measures what words are in tokens. ask: sends a prompt, for an answer of one token."""
        short, long = ask(self.text(1)), ask(self.text(_CALIBRATION_WORDS + 1))
        self.tokens_per_word = max((long.prompt_tokens - short.prompt_tokens) / _CALIBRATION_WORDS, 0.1)
        self.overhead = max(short.prompt_tokens - self.tokens_per_word, 0.0)
        self.is_calibrated = True


@dataclass(slots=True, frozen=True)
class KeptAnswer:
    """A streamed chat as it came, to be read when nothing is measured any more."""

    sent_at: float
    pieces: list[bytes]
    times: list[float]

    @property
    def error(self) -> str | None:
        """With which it ended. An error comes in the last pieces: nothing else is parsed for this."""
        return self.read().error if b'{"error"' in b"".join(self.pieces[-3:]) else None

    def read(self) -> TimedAnswer:
        """What it says."""
        return read_stream(self.sent_at, self.pieces, self.times)


def ask(
    gateway: Gateway, model: str, prompt: str, tokens: int, stop: Callable[[], bool] = lambda: False
) -> TimedAnswer:
    """One streamed chat. stop: leaves it as soon as this is true. Raises CliError, but not for an error that ends a
    stream which has begun."""
    return _keep(gateway, model, prompt, tokens, stop).read()


def _keep(gateway: Gateway, model: str, prompt: str, tokens: int, stop: Callable[[], bool]) -> KeptAnswer:
    body: Json = {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "resume": False,  # the pause of an answer that goes on in another process is no speed
    }
    pieces, times = list[bytes](), list[float]()
    sent_at = time.monotonic()
    for piece in gateway.pieces("POST", _CHAT, body):
        times.append(time.monotonic())
        pieces.append(piece)
        if stop():
            break
    return KeptAnswer(sent_at, pieces, times)


def measure(
    gateway: Gateway, model: str, prompts: Prompts, *, streams: int, rounds: int, prompt_tokens: int, tokens: int
) -> Level:
    """So many streams at once, each with one request after the other. Raises CliError for the first that fails."""
    texts = [[prompts.of_tokens(prompt_tokens) for _ in range(rounds)] for _ in range(streams)]
    kept, failures = list[KeptAnswer](), list[BaseException]()

    def run(own: list[str]) -> None:
        try:
            for text in own:
                answer = _keep(gateway, model, text, tokens, lambda: bool(failures))
                if answer.error is not None:
                    raise CliError(f"a stream of {model} failed: {answer.error}")
                kept.append(answer)
        except CliError as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(own,), daemon=True) for own in texts]
    cpu = time.process_time()
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    except BaseException as error:  # Ctrl-C, or no time left: the streams end as well
        failures.append(error)
        raise
    cpu = time.process_time() - cpu
    if failures:
        raise failures[0]
    return level_of(streams, [answer.read() for answer in kept], cpu)


@dataclass(slots=True)
class Aside:
    """A stream in a thread of its own, one after the other until `leave`, or one only."""

    _run: Callable[[Callable[[], bool]], TimedAnswer]
    once: bool = False
    _leaving: threading.Event = field(default_factory=threading.Event)
    _answers: list[TimedAnswer] = field(default_factory=list)
    _thread: threading.Thread | None = None

    def start(self) -> "Aside":
        """Begin."""
        self._thread = threading.Thread(target=self._loop, daemon=True)
        self._thread.start()
        return self

    @property
    def is_running(self) -> bool:
        """Whether the thread has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def leave(self, seconds: float = 10.0) -> list[TimedAnswer]:
        """End, and what came."""
        self._leaving.set()
        if self._thread is not None:
            self._thread.join(seconds)
        return self._answers

    def _loop(self) -> None:
        while not self._leaving.is_set():
            try:
                self._answers.append(self._run(self._leaving.is_set))
            except CliError:
                return
            if self.once:
                return
