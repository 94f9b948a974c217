"""One forward pass for a group of rows, and the next token of each. Launches the computation and does not wait."""

from typing import Any

import mlx.core as mx
from mlx_lm.models.cache import TokenBuffer

from worker.generation.sampling import GREEDY, Follower
from worker.text.rows import Group, Row


def draw(model: Any, group: Group, tokens: mx.array) -> mx.array:
    """Run the model on these tokens (rows, 1) and draw the next ones (rows, 1), which are kept in the group too."""
    rows = group.rows
    logits = model(tokens, cache=group.caches)
    contexts: list[mx.array] = []
    sampler = rows[0].sampler
    is_shared = all(row.sampler is sampler for row in rows)
    has_processors = any(row.processors for row in rows)
    wants_logprobs = any(row.wants_logprobs for row in rows)
    group.logprobs = [None] * len(rows)
    if is_shared and sampler is GREEDY and not has_processors and not wants_logprobs:
        drawn = sampler(logits)  # the likeliest token needs no normalisation
    else:
        logits = logits[:, -1, :]
        if has_processors:
            if any(isinstance(processor, Follower) for row in rows for processor in row.processors):
                mx.async_eval(logits)  # type: ignore[no-untyped-call] # followers wait for the last tokens meanwhile
            processed = [_process(row, tokens[i], logits[i : i + 1], contexts) for i, row in enumerate(rows)]
            logits = mx.concatenate(processed)
        logprobs = logits - mx.logsumexp(logits, axis=-1, keepdims=True)
        if is_shared:
            drawn = sampler(logits if sampler is GREEDY else logprobs)
        else:
            # In 16 bits two log-probabilities may be equal whose logits are not. A greedy row uses its logits, so that
            # it draws the same token alone and in a batch.
            sources = [logits if row.sampler is GREEDY else logprobs for row in rows]
            drawn = mx.concatenate([row.sampler(sources[i][i : i + 1]) for i, row in enumerate(rows)])
        drawn = drawn[:, None]
        if wants_logprobs:
            group.logprobs = [logprobs[i] if row.wants_logprobs else None for i, row in enumerate(rows)]
    group.drawn = drawn
    wanted = [row for row in group.logprobs if row is not None]
    mx.async_eval(drawn, contexts, wanted)  # type: ignore[no-untyped-call]
    return drawn


def numbers(drawn: mx.array) -> list[int]:
    """Tokens (rows, 1). Waits for them."""
    return [token for (token,) in drawn.tolist()]  # type: ignore[misc, union-attr] # of two dimensions


def _process(row: Row, token: mx.array, logits: mx.array, contexts: list[mx.array]) -> mx.array:
    """The logits (1, vocabulary) after this token (1,), changed by the row's processors. The tokens that the processors
    see are added to `contexts`."""
    if row.processors:
        if row.context is None:
            row.context = TokenBuffer(row.tokens)
        context = row.context.update_and_fetch(token)
        contexts.append(context)
        for processor in row.processors:
            logits = processor(context, logits)
    return logits
