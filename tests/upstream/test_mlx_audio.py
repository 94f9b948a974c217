"""Contracts of mlx-audio: see docs/upstream.md."""

import numpy as np
from mlx_audio.utils import resample_audio


def test_mlx_audio_resampling() -> None:
    """A tone keeps its height and its strength, and one that is too high for the new rate goes."""
    places = np.arange(44_100, dtype=np.float32) / 44_100
    for height, strength in ((440, 0.5), (12_000, 0.0)):
        tone = (0.5 * np.sin(2 * np.pi * height * places)).astype(np.float32)
        heard = np.asarray(resample_audio(tone, 44_100, 16_000), np.float32)
        assert heard.shape == (16_000,)
        middle = heard[1000:-1000]
        wanted = 0.5 * np.sin(2 * np.pi * height * np.arange(16_000) / 16_000)[1000:-1000] * (strength / 0.5)
        assert float(np.abs(middle - wanted).max()) < 5e-3
