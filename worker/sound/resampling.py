"""Sound at another rate, piece by piece: to the last bit what mlx-audio's filter makes of the whole."""

import math
from collections.abc import Iterator

import numpy as np
from mlx_audio.resample import resample_audio_array

# Samples of one channel.
Samples = np.ndarray[tuple[int], np.dtype[np.float32]]

# The filter looks at 64 samples of the lower rate on each side of one; nothing is lost by twice as many.
_BESIDE = 128


def ratio(rate: int, wanted: int) -> tuple[int, int]:
    """By how much a rate is multiplied and divided to become the wanted one."""
    divisor = math.gcd(rate, wanted)
    return wanted // divisor, rate // divisor


def resampled(chunks: Iterator[Samples], rate: int, wanted: int, most: int) -> Iterator[Samples]:
    """The same sound at the wanted rate. most: samples of the higher rate that are resampled at once, or as many as the
    filter needs. Each piece is resampled together with what lies beside it, and begins where the filter is in the phase
    that it would have if all were resampled at once."""
    if rate == wanted:
        yield from chunks
        return
    up, down = ratio(rate, wanted)
    core = most * min(up, down) // up // down * down or down
    beside = math.ceil(_BESIDE * max(up, down) / up / down) * down
    buffer = np.zeros(0, np.float32)
    first = at = 0  # numbers of the first sample in the buffer, and of the next one to resample

    def resample(end: int, seen: int) -> Samples:
        read = resample_audio_array(buffer[: seen - first], rate, wanted)
        begin = first * up // down
        piece: Samples = read[at * up // down - begin : math.ceil(end * up / down) - begin]
        return piece

    for chunk in chunks:
        buffer = np.concatenate((buffer, chunk))
        while first + len(buffer) >= at + core + beside:
            yield resample(at + core, at + core + beside)
            at += core
            dropped = max(0, at - beside) - first
            buffer, first = buffer[dropped:].copy(), first + dropped
    if at < first + len(buffer):
        yield resample(first + len(buffer), first + len(buffer))
