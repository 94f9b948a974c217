"""Decides whether a text model has a prompt cache on disk, and what its files must not be mixed with."""

import logging
from pathlib import Path

from broker.wire.failure import named_line
from broker.wire.to_workers import Assign
from worker.cache.disk.disk_cache import DiskCache, DiskSettings
from worker.cache.disk.fingerprint import fingerprint_of
from worker.cache.disk.space import Bounds
from worker.process.blas import loaded_blas
from worker.text.options import TextOptions

log = logging.getLogger("worker")


def make_disk(assign: Assign, options: TextOptions) -> DiskCache | None:
    """None if the broker names no folder, or the model's files cannot be read."""
    if not assign.cache_dir or not assign.cache_bytes:
        return None
    paths = (assign.path, options.draft_model, options.adapter_path)
    folders = [Path(path).expanduser() for path in paths if path is not None]
    facts = {
        "model_type": assign.model_type,
        "chat_template": options.chat_template,
        "tool_form": options.tool_form,
        "blas": loaded_blas(),
        "quantised": [options.kv_bits, options.kv_group_size, options.quantized_kv_start, options.prefill_step_size]
        if options.kv_bits is not None
        else None,
    }
    try:
        fingerprint = fingerprint_of(folders, facts)
    except OSError as error:
        log.warning("the prompt cache on disk is off: %s", named_line(error))
        return None
    bounds = Bounds(assign.cache_bytes, assign.cache_reserve_bytes)
    settings = DiskSettings(Path(assign.cache_dir), bounds, assign.cache_bytes_per_second)
    return DiskCache(settings, fingerprint, quantises=options.kv_bits is not None)
