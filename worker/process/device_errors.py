"""Tells errors of the GPU from all others, because they end the process.

After one of them the state of the model is unknown: MLX raises it in whatever is evaluated next, which may belong to
another request, and arrays that were being computed hold garbage. A fresh process is all that helps. Often no request
is at fault: the memory of the whole machine was short, or a fault of another process reset the GPU.

MLX raises plain RuntimeErrors, so their beginnings decide. What follows them is Apple's text, in the user's language:
examples are in tests/device_errors.py.
"""

# Of MLX 0.32.4, with the file that raises it.
_BEGINNINGS = (
    "[METAL] Command buffer execution failed",  # backend/metal/device.cpp, CommandEncoder::commit
    "[metal::CommandEncoder] Failed to make new command queue",  # the same file
    "[metal::malloc] ",  # backend/metal/allocator.cpp: too many buffers, or one that is too large
    "[malloc] Unable to allocate ",  # the same file
    "[Event::Event] Failed to create Metal shared event",  # backend/metal/event.cpp
)


def is_device_error(error: BaseException | None) -> bool:
    """Whether this is an error of the GPU, or was raised because of one."""
    while error is not None:
        if isinstance(error, RuntimeError) and str(error).startswith(_BEGINNINGS):
            return True
        error = error.__cause__ or error.__context__
    return False
