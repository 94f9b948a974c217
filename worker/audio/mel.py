"""The spectrogram that Whisper hears: computed piece by piece, and the same as that of the whole file at once.

Whisper's windows are scaled by the loudest moment of the file. So all frames are kept before they are scaled, as
logarithms, and a window is scaled when it is cut.
"""

from itertools import pairwise
from typing import Any

import mlx.core as mx
import numpy as np
from mlx_audio.utils import hanning, mel_filters, stft

from worker.audio.decoding import RATE
from worker.sound.resampling import Samples

# Samples of a frame, and from one frame to the next.
_WIDTH, _HOP = 400, 160
FRAMES_PER_SECOND = RATE // _HOP

# Frames of the window of 30 seconds that the model hears at once.
WINDOW_FRAMES = 3000

# Frames for which there is silence at least behind the last sample.
_SILENCE = np.zeros(WINDOW_FRAMES * _HOP + _WIDTH, np.float32)


class Spectrogram:
    """Mutable state: samples that are not in a frame yet; the frames, in pieces, and the number of the first of each
    piece, the next one last; the loudest; how many samples came."""

    def __init__(self, mels: int) -> None:
        self._window: Any = hanning(_WIDTH, periodic=True)
        self._filters: Any = mel_filters(RATE, _WIDTH, mels, norm="slaney", mel_scale=None).T
        self._rest: Samples = np.zeros(0, np.float32)
        self._pieces: list[mx.array] = []
        self._firsts = [0]
        self._loudest = mx.array(-mx.inf)
        self._samples = 0

    @property
    def frames(self) -> int:
        """Of the file, without silence behind it."""
        return self._samples // _HOP

    def add(self, samples: Samples) -> None:
        """The next samples, of some seconds."""
        self._samples += len(samples)
        self._take(samples)

    def end(self) -> None:
        """No more samples: there is a window at least."""
        while self._firsts[-1] < max(self.frames, WINDOW_FRAMES):
            self._take(_SILENCE)

    def window(self, first: int, count: int) -> mx.array:
        """So many frames from `first` on, scaled."""
        parts = [
            piece[max(first - begin, 0) : first + count - begin]
            for piece, (begin, end) in zip(self._pieces, pairwise(self._firsts), strict=True)
            if begin < first + count and end > first
        ]
        scaled = mx.maximum(mx.concatenate(parts), self._loudest - 8.0)
        return (scaled + 4.0) / 4.0

    def _take(self, samples: Samples) -> None:
        rest = np.concatenate((self._rest, samples))
        if not self._pieces:
            if len(rest) <= _WIDTH:
                self._rest = rest
                return
            rest = np.concatenate((rest[_WIDTH // 2 : 0 : -1], rest))  # what precedes the file: its mirror image
        count = 1 + (len(rest) - _WIDTH) // _HOP
        if count < 1:
            self._rest = rest
            return
        whole = mx.array(rest[: (count - 1) * _HOP + _WIDTH])
        self._rest = rest[count * _HOP :].copy()
        spectrum: Any = stft(whole, window=self._window, n_fft=_WIDTH, hop_length=_HOP, center=False)
        piece = mx.log10(mx.maximum(spectrum.abs().square() @ self._filters, 1e-10))
        self._loudest = mx.maximum(self._loudest, piece.max())
        mx.eval(piece, self._loudest)
        self._pieces.append(piece)
        self._firsts.append(self._firsts[-1] + count)
