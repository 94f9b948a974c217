"""What computes on this machine."""

import os

import mlx.core as mx


def computes_on_cpu() -> bool:
    """Whether the CPU does, not a GPU."""
    return mx.default_device().type != mx.gpu


def computes_in_one_thread() -> bool:
    """Whether the CPU does, in one thread: another BLAS (worker/process/blas.py) may have more."""
    return computes_on_cpu() and os.environ.get("OPENBLAS_NUM_THREADS", "1") == "1"


def working_set_bytes() -> int:
    """What Metal recommends to use at most, in bytes (`recommendedMaxWorkingSetSize`); 0 without Metal."""
    if not mx.metal.is_available():
        return 0
    return int(mx.device_info().get("max_recommended_working_set_size", 0))
