"""Replaces the BLAS that MLX brings along. Linux only, and only if a setting asks for it.

MLX's wheels for Linux compute float32 matrix products on the CPU with the reference BLAS, which is slow by design. Its
symbols are looked up in the whole process, so a library that was loaded earlier wins. Must not import MLX.
"""

import ctypes
import logging
import os

log = logging.getLogger("worker")

# The function that MLX calls.
_SYMBOL = "cblas_sgemm"


def load_blas(library: str) -> bool:
    """Load a library by its name or path, before MLX is imported; whether MLX will use it. If not, the log says why and
    MLX uses its own."""
    # Workers share the machine: by default each OpenBLAS would use all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        loaded = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        reason = None if hasattr(loaded, _SYMBOL) else f"{library} has no {_SYMBOL}"
    except OSError as error:
        reason = str(error)
    if reason is not None:
        log.warning("blas_library: %s; MLX computes with its own BLAS", reason)
    return reason is None
