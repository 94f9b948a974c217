"""How a batch is divided among the CPU's cores: MLX computes on one for each stream. Pure."""

from collections.abc import Sequence


def parts_of(lengths: Sequence[int], most: int) -> list[list[int]]:
    """The numbers of the rows in at most `most` parts, none of them empty: about the same number of tokens in each, and
    rows of similar length together, so that there is little padding."""
    parts: list[list[int]] = []
    left = sum(lengths)
    tokens = 0
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        # A row goes where more than half of it belongs.
        if not parts or (len(parts) < most and tokens + lengths[number] / 2 > left / (most - len(parts) + 1)):
            left -= tokens
            tokens = 0
            parts.append([])
        parts[-1].append(number)
        tokens += lengths[number]
    return parts
