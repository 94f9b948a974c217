"""What MLX's Metal backend raises, word for word, as it was seen on Macs or as its source has it.

Apple's part is in brackets or after the colon: `localizedDescription` of the error of a command buffer.
"""

_COMMAND_BUFFER = "[METAL] Command buffer execution failed: {} ({}:kIOGPUCommandBufferCallbackError{})."

# name -> the text of the RuntimeError, with where it was seen.
DEVICE_ERRORS = {
    # github.com/jundot/omlx/issues/2029; a command buffer that runs for more than about five seconds
    "timeout": _COMMAND_BUFFER.format("Caused GPU Timeout Error", "00000002", "Timeout"),
    # github.com/ggml-org/llama.cpp: macOS 15.3.1
    "hang": _COMMAND_BUFFER.format("Caused GPU Hang Error", "00000003", "Hang"),
    # the same machine; github.com/ggml-org/llama.cpp/issues/8886 has it by its older name
    "ignored": _COMMAND_BUFFER.format(
        "Ignored (for causing prior/excessive GPU errors)", "00000004", "SubmissionsIgnored"
    ),
    # the GPU was reset because of another process
    "victim": _COMMAND_BUFFER.format("Discarded (victim of GPU error/recovery)", "00000005", "InnocentVictim"),
    # github.com/ml-explore/mlx/pull/479
    "memory": _COMMAND_BUFFER.format("Insufficient Memory", "00000008", "OutOfMemory"),
    # github.com/Blaizzy/mlx-vlm/issues/270
    "resource": _COMMAND_BUFFER.format("Invalid Resource", "00000009", "InvalidResource"),
    # a kernel that reads or writes outside of its buffers
    "fault": _COMMAND_BUFFER.format("Caused GPU Address Fault Error", "0000000b", "PageFault"),
    # github.com/jundot/omlx/issues/1387, github.com/Acelogic/LTX-2-MLX/issues/5
    "interactivity": _COMMAND_BUFFER.format("Impacting Interactivity", "0000000e", "ImpactingInteractivity"),
    # Apple's part in another language
    "translated": "[METAL] Command buffer execution failed: Unzureichender Speicher.",
    # mlx/backend/metal/allocator.cpp
    "resources": "[metal::malloc] Resource limit (499000) exceeded.",
    "too large": "[metal::malloc] Attempting to allocate 34359738368 bytes which is greater than the maximum allowed"
    " buffer size of 19327352832 bytes.",
    "allocation": "[malloc] Unable to allocate 4294967296 bytes.",
    # mlx/backend/metal/device.cpp, event.cpp
    "queue": "[metal::CommandEncoder] Failed to make new command queue.",
    "event": "[Event::Event] Failed to create Metal shared event.",
}
