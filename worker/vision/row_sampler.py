"""A request's own sampling inside mlx-vlm's batch, which has one sampler for all rows.

That batch takes the likeliest token of every row. This logits processor samples as the request asks and excludes all
other tokens, so that the batch takes the sampled one. Each row is sampled separately, and the next step waits for the
token.
"""

from collections import deque

import mlx.core as mx

from worker.generation.sampling import LogitsProcessor, Sampler


class RowSampler:
    """For one request. Mutable: the tokens so far, if a processor needs them, and the rows that have not been taken."""

    def __init__(self, processors: list[LogitsProcessor], sampler: Sampler, *, keeps_rows: bool) -> None:
        """keeps_rows: whether the request asks for log-probabilities."""
        self._processors = processors
        self._sampler = sampler
        self._rows: deque[mx.array] | None = deque() if keeps_rows else None
        self._tokens: mx.array | None = None

    def __call__(self, tokens: mx.array, logits: mx.array) -> mx.array:
        """The first token. tokens: the prompt; logits, and the result: (1, vocabulary)."""
        self._tokens = tokens if self._processors else None
        return self._sample(logits)

    def process_last_token(self, token: int, logits: mx.array) -> mx.array:
        """Any later token, after `token`. With this method mlx-vlm does not copy the whole context for every token."""
        if self._tokens is not None:
            self._tokens = mx.concatenate([self._tokens, mx.array([token], self._tokens.dtype)])
        return self._sample(logits)

    def take_row(self) -> mx.array | None:
        """The log-probabilities (vocabulary,) of the next token that leaves the batch; None if not asked for."""
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
