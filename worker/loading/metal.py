"""What Metal says about this machine."""

import mlx.core as mx


def working_set_bytes() -> int:
    """What it recommends to use at most, in bytes (`recommendedMaxWorkingSetSize`); 0 without Metal."""
    if not mx.metal.is_available():
        return 0
    return int(mx.device_info().get("max_recommended_working_set_size", 0))
