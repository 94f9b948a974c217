"""Loads an embedding model or a reranker and runs it over a padded batch: a vector for a text, a score for a pair.

mlx-vlm computes. This file follows what sentence-transformers wrote beside the weights (modules.json, pooling, longest
text); settings that it cannot follow are a ValueError that names the file. Knows no requests.
"""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlx.core as mx
from mlx_vlm.embedding_loader import load_embedding_model
from mlx_vlm.models.pooling import pool_by_config, read_pooling_config
from mlx_vlm.reranker_loader import is_sequence_classifier_config, load_sequence_classification_model
from transformers import AutoTokenizer

from worker.embeddings.parts import parts_of
from worker.engine import Report
from worker.loading.device import computes_on_cpu
from worker.loading.layout import transpose_for_blas
from worker.loading.model_folder import CONTEXT_KEYS, blame, first_int, read_weights, text_facts

# Cores that compute a batch where there is no GPU, at most. Other models need some, too.
_MOST_CORES = 4

# Tokenizers without a limit give a huge number.
_NO_LIMIT = 1 << 40

# A text of this many characters is always tokenised, which takes 20 ms: some tokenizers drop spaces or make one token
# of a very long word.
_TOKENISE_ANYWAY = 65_536

# mlx-vlm ignores these fields of these families and assumes these values.
_FIXED_FAMILIES = ("bert", "xlm-roberta", "xlm_roberta")
_FIXED = {"hidden_act": "gelu", "position_embedding_type": "absolute"}
_MODERNBERT_THETAS = {"full_attention": 160_000.0, "sliding_attention": 10_000.0}


@dataclass(slots=True, frozen=True)
class Row:
    """One input of the model. types: 0 and 1 for the first and second text of a pair, if the model uses types."""

    tokens: list[int]
    types: list[int] | None = None


class Encoder:
    """A loaded model. size: of a vector, 1 for a reranker. context_length: tokens of an input, 0 if unknown;
    most_characters: a longer text is too long, 0 if unknown; vocabulary: tokens, 0 if unknown."""

    def __init__(self, folder: Path, report: Report) -> None:
        if not folder.is_dir():
            raise ValueError(f"{folder}: no such model folder")
        with blame(folder, "config.json"):
            config = _read_config(folder)
            facts = text_facts(config)
        self.is_reranker = is_sequence_classifier_config(config)
        with blame(folder, "modules.json"):
            self._normalizes = _normalizes(folder)
        with blame(folder, "*.safetensors or config.json"):
            load = load_sequence_classification_model if self.is_reranker else load_embedding_model
            self._model: Any = load(folder, lazy=True)
        with blame(folder, "1_Pooling/config.json"):
            self._pooling = read_pooling_config(folder)
            self._model.pooling_config = self._pooling
        with blame(folder, "tokenizer.json or tokenizer_config.json"):
            self._tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        report("tokenizer", 1.0)
        transpose_for_blas(self._model, biased=True)
        self._streams = _streams()
        with blame(folder, "*.safetensors"):
            self.weights_bytes = read_weights(self._model, report)
        self.vocabulary = first_int(facts, ("vocab_size",))
        self._uses_types = first_int(facts, ("type_vocab_size",)) > 1
        self._padding = first_int(facts, ("pad_token_id",)) or self._tokenizer.pad_token_id or 0
        with blame(folder, "sentence_bert_config.json"):
            self.context_length = _context_length(folder, facts, self._tokenizer)
        longest_token = max(map(len, self._tokenizer.get_vocab()))
        self.most_characters = max(self.context_length * longest_token, _TOKENISE_ANYWAY) if self.context_length else 0
        with blame(folder, "1_Pooling/config.json or modules.json"):
            self.size = self._probe()

    def text(self, text: str, *, cuts: bool = False) -> Row:
        """A text with the special tokens of the model around it. cuts: its end is left out if it is too long."""
        most = {"truncation": True, "max_length": self.context_length} if cuts and self.context_length else {}
        return Row(list(self._tokenizer.encode(text, **most)))

    def query(self, text: str) -> Any:
        """A query for any number of pairs."""
        return self._bare(text)

    def pair(self, query: Any, document: str) -> Row:
        """A query and a document, joined for a reranker."""
        encoded = self._tokenizer.backend_tokenizer.post_process(query, self._bare(document))
        return Row(encoded.ids, encoded.type_ids if self._uses_types else None)

    def _bare(self, text: str) -> Any:
        tokenizer = self._tokenizer.backend_tokenizer
        # Files of sentence-transformers turn both on.
        tokenizer.no_truncation()
        tokenizer.no_padding()
        return tokenizer.encode(text, add_special_tokens=False)

    def run(self, rows: list[Row]) -> mx.array:
        """Vectors, or scores from 0 to 1, of all rows: (rows, size), float32, computed."""
        parts = parts_of([len(row.tokens) for row in rows], len(self._streams))
        results = []
        for stream, numbers in zip(self._streams, parts, strict=False):
            with mx.stream(stream):
                results.append(self._compute([rows[number] for number in numbers]))
        if len(parts) == 1 and parts[0] == [*range(len(rows))]:
            (result,) = results
        else:
            order = [number for numbers in parts for number in numbers]
            places = sorted(range(len(rows)), key=order.__getitem__)
            result = mx.concatenate(results)[mx.array(places)]
        mx.eval(result)
        return result

    def _compute(self, rows: list[Row]) -> mx.array:
        """The same of rows that are padded together, not computed yet."""
        longest = max(len(row.tokens) for row in rows)
        # Padding follows the text, so it shifts no position, and causal models never attend to it.
        padding = [[0] * (longest - len(row.tokens)) for row in rows]
        mask = mx.array([[1] * len(row.tokens) + rest for row, rest in zip(rows, padding, strict=True)])
        tokens = mx.array([row.tokens + [self._padding] * len(rest) for row, rest in zip(rows, padding, strict=True)])
        types = {}
        if rows[0].types is not None:
            pairs = [(row.types or [0] * len(row.tokens)) + rest for row, rest in zip(rows, padding, strict=True)]
            types = {"token_type_ids": mx.array(pairs)}
        out = self._model(tokens, attention_mask=mask, **types)
        if self.is_reranker:
            return mx.sigmoid(out.logits.astype(mx.float32))
        if self._normalizes:
            embeds: mx.array = out.text_embeds.astype(mx.float32)
            return embeds
        pooled: mx.array = pool_by_config(out.last_hidden_state, mask, self._pooling).astype(mx.float32)
        return pooled

    def _probe(self) -> int:
        result = self.run([Row([0]), Row([0])])  # two, as Metal has other kernels for several
        if result.ndim != 2:
            raise ValueError("the model makes several vectors for a text; only one is supported")
        return result.shape[1]


def _streams() -> list[mx.Stream]:
    """That compute the parts of a batch side by side: on a CPU one for each core."""
    device = mx.default_device()
    if not computes_on_cpu():
        return [mx.default_stream(device)]
    cores = os.cpu_count() or 1
    if sys.platform == "linux":
        cores = len(os.sched_getaffinity(0))
    return [mx.default_stream(device), *(mx.new_stream(device) for _ in range(min(cores, _MOST_CORES) - 1))]


def _read_config(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "config.json").read_bytes())
    if not isinstance(config, dict) or not isinstance(config.get("model_type"), str):
        raise ValueError("model_type is missing")
    if config["model_type"] in _FIXED_FAMILIES:
        for name, value in _FIXED.items():
            if config.get(name, value) != value:
                raise ValueError(f"{name} must be {value!r}, not {config[name]!r}")
    if config["model_type"] == "modernbert" and "rope_parameters" in config:
        # The newer form, which mlx-vlm does not read: it assumes these.
        thetas = {name: rope.get("rope_theta") for name, rope in config["rope_parameters"].items()}
        if thetas != _MODERNBERT_THETAS:
            raise ValueError(f"rope_parameters must have {_MODERNBERT_THETAS}, not {thetas}")
    return config


def _normalizes(folder: Path) -> bool:
    """Whether vectors are scaled to length 1: as modules.json says, and without it yes."""
    try:
        modules = json.loads((folder / "modules.json").read_bytes())
    except FileNotFoundError:
        return True
    kinds = [str(module["type"]).rpartition(".")[2] for module in modules]
    others = set(kinds) - {"Transformer", "Pooling", "Dense", "Normalize"}
    if others:
        raise ValueError(f"a module of type {min(others)} is not supported")
    if "Pooling" in kinds and not (folder / "1_Pooling" / "config.json").exists():
        raise ValueError("has a pooling module, but 1_Pooling/config.json is missing")
    return "Normalize" in kinds or "Pooling" not in kinds


def _context_length(folder: Path, config: dict[str, Any], tokenizer: Any) -> int:
    positions = first_int(config, CONTEXT_KEYS)
    if positions and "roberta" in config["model_type"]:
        positions -= config.get("pad_token_id", 1) + 1  # the number of the first position
    limit = tokenizer.model_max_length
    lengths = [positions, limit if isinstance(limit, int) and limit < _NO_LIMIT else 0]
    trained = folder / "sentence_bert_config.json"
    if trained.exists():
        lengths.append(first_int(json.loads(trained.read_bytes()), ("max_seq_length",)))
    return min((length for length in lengths if length), default=0)
