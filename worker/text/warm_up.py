"""Work on the device before the first request: Metal compiles each kernel on its first use in a process, and makes the
device itself on the first evaluation.
"""

import mlx.core as mx

from worker.generation.sampling import GREEDY
from worker.text.batch import Batch

# A prompt of several tokens and a token decoded after it, alone and in company, is what every request begins with.
# Equal prompts would be prefilled as one.
_PROMPTS = ([0, 0], [0, 1])
_TOKENS = 2


def touch_device() -> None:
    """Makes the device, which takes a spare's time instead of a load's."""
    mx.eval(mx.zeros(1))


def needs_warm_up() -> bool:
    """Whether there are kernels to compile. On a CPU the first steps are like all others, and they are slow."""
    return mx.metal.is_available()


def warm_up(batch: Batch) -> None:
    """Runs short sequences through an empty batch, which is empty again afterwards."""
    # The second time tells the batch's pace what a step costs once the kernels are there.
    for _ in range(2):
        for prompt in _PROMPTS:
            batch.insert(
                [[*prompt]], _TOKENS, cache=None, tokens=[], sampler=GREEDY, processors=[], wants_logprobs=False
            )
        while any(batch.counts()):
            batch.next()
    mx.clear_cache()
    mx.reset_peak_memory()
