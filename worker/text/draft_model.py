"""Loads the small model that proposes tokens to a large one. Whether it fits is decided here, before any request."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from worker.cache.kv_caches import can_be_shortened
from worker.engine import Report
from worker.loading.model_folder import LoadedModel, blame, load_folder


def with_draft(loaded: LoadedModel, path: str, report: Report) -> tuple[LoadedModel, Any]:
    """The facts of both models together, and the draft model of this folder. Raises ValueError saying what is wrong."""
    folder = Path(path).expanduser()
    with blame(folder, f"draft_model {folder.name}"):
        draft = load_folder(folder, report)
        ours, theirs = loaded.tokenizer.get_vocab(), draft.tokenizer.get_vocab()
        if ours != theirs:
            raise ValueError(
                f"its vocabulary of {len(theirs)} tokens is not the model's of {len(ours)}: "
                "a draft model needs the same tokenizer"
            )
        for model, name in ((loaded.model, "the model's"), (draft.model, "its")):
            if not can_be_shortened(model):
                raise ValueError(f"{name} key-value cache cannot go back to an earlier token, as drafts need it")
    # Their tables of tokens may be padded differently: an id has to be in both.
    vocabulary = min(loaded.vocabulary, draft.vocabulary)
    weights_bytes = loaded.weights_bytes + draft.weights_bytes
    return replace(loaded, vocabulary=vocabulary, weights_bytes=weights_bytes), draft.model
