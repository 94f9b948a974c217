"""Replaces the BLAS that MLX brings along. Linux only, and only if a setting asks for it.

MLX's wheels for Linux compute float32 matrix products on the CPU with the reference BLAS, which is slow by design. Its
symbols are looked up in the whole process, so a library that was loaded earlier wins. Must not import MLX.
"""

import ctypes
import logging
import os
from pathlib import Path

log = logging.getLogger("worker")

# The function that MLX calls.
_SYMBOL = "cblas_sgemm"

_loaded: str | None = None


class _Address(ctypes.Structure):
    """What `dladdr` tells about an address."""

    _fields_ = (
        ("file", ctypes.c_char_p),
        ("base", ctypes.c_void_p),
        ("symbol", ctypes.c_char_p),
        ("address", ctypes.c_void_p),
    )


def loaded_blas() -> str | None:
    """Which library computes instead of MLX's own: its file, with its size and time of change. None if there is
    none."""
    return _loaded


def load_blas(library: str) -> bool:
    """Load a library by its name or path, before MLX is imported; whether MLX will use it. If not, the log says why and
    MLX uses its own."""
    global _loaded  # noqa: PLW0603 # a process has one
    # Workers share the machine: by default each OpenBLAS would use all cores.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        loaded = ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
        if not hasattr(loaded, _SYMBOL):
            raise OSError(f"{library} has no {_SYMBOL}")
    except OSError as error:
        log.warning("blas_library: %s; MLX computes with its own BLAS", error)
        return False
    _loaded = _file_of(loaded, library)
    return True


def _file_of(loaded: ctypes.CDLL, library: str) -> str:
    """The file that has the function, behind all links: the same name may stand for another one tomorrow."""
    found = _Address()
    address = ctypes.cast(getattr(loaded, _SYMBOL), ctypes.c_void_p)
    if not ctypes.CDLL(None).dladdr(address, ctypes.byref(found)):
        return library
    file = Path(os.fsdecode(found.file)).resolve()
    status = file.stat()
    return f"{file} {status.st_size} {status.st_mtime_ns}"
