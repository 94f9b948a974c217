"""A request's own sampling inside a batch that has one sampler for all, as that of mlx-vlm.

That batch takes the likeliest token of every row. What stands here is a logits processor: it samples as the request
asks for and leaves only the sampled token possible, so the batch takes that one. Each row is sampled by itself, and
the next token begins only when this one is known.
"""

from collections import deque

import mlx.core as mx

from worker.generation.sampling import LogitsProcessor, Sampler


class RowSampler:
    """For one request. Mutable: the tokens so far, if a processor reads them, and the rows that wait to be read."""

    def __init__(self, processors: list[LogitsProcessor], sampler: Sampler, *, keeps_rows: bool) -> None:
        """keeps_rows: whether log-probabilities are asked for."""
        self._processors = processors
        self._sampler = sampler
        self._rows: deque[mx.array] | None = deque() if keeps_rows else None
        self._tokens: mx.array | None = None

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The first token. tokens: the prompt; logits: (1, vocabulary), as is what comes back."""
        self._tokens = tokens if self._processors else None
        return self._sample(logits)

    def process_last_token(self, token: int, logits: mx.array) -> mx.array:
        """Any further one, after `token`; mlx-vlm calls this where it is there, and then copies no whole context."""
        if self._tokens is not None:
            self._tokens = mx.concatenate([self._tokens, mx.array([token], self._tokens.dtype)])
        return self._sample(logits)

    def take_row(self) -> mx.array | None:
        """The log-probabilities (vocabulary,) of the next token that leaves the batch; None if nobody asked."""
        return self._rows.popleft() if self._rows is not None else None

    def _sample(self, logits: mx.array) -> mx.array:
        for processor in self._processors:
            assert self._tokens is not None
            logits = processor(self._tokens, logits)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        if self._rows is not None:
            self._rows.append(logprobs[0])
        token = self._sampler(logprobs)
        others: mx.array = mx.arange(logits.shape[-1]) != token[:, None]
        return mx.where(others, -mx.inf, mx.zeros_like(logits))
