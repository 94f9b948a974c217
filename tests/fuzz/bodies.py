"""Usual bodies of every dialect, which the fuzz mutates. None has a `model` or `stream`."""

from typing import Any

_TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "of a town",
        "parameters": {"type": "object", "properties": {"town": {"type": "string"}, "days": {"type": "integer"}}},
    },
}
_CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Köln"}'}}
_SCHEMA = {"type": "object", "properties": {"a": {"enum": ["x", 1, None]}}, "required": ["a"]}
_PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNk+A8AAQ"
_HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
    {"role": "assistant", "content": None, "tool_calls": [_CALL], "reasoning_content": "Hm."},
    {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    {"role": "user", "content": "And tomorrow?", "name": "me"},
]
SAMPLING = {
    "max_tokens": 4,
    "temperature": 0.7,
    "top_p": 0.9,
    "top_k": 5,
    "min_p": 0.1,
    "seed": 1,
    "stop": ["\n"],
    "n": 2,
    "logprobs": True,
    "logit_bias": {"65": 2},
    "presence_penalty": 0.1,
    "repetition_penalty": 1.1,
}
CHATS: list[dict[str, Any]] = [
    {"messages": [{"role": "user", "content": "Hi"}], **SAMPLING, "top_logprobs": 2},
    {"messages": _HISTORY, "tools": [_TOOL], "tool_choice": "auto", "stream_options": {"include_usage": True}},
    {"messages": [{"role": "user", "content": "Hi"}], "tools": [_TOOL], "tool_choice": "required"},
    {
        "messages": [{"role": "user", "content": "Hi"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": _SCHEMA, "strict": True}},
        "chat_template_kwargs": {"enable_thinking": False},
        "reasoning_effort": "low",
    },
    {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": _PIXEL}}]}]},
]
RESPONSES: list[dict[str, Any]] = [
    {"input": "Hi", "instructions": "Be brief.", "max_output_tokens": 4, "top_logprobs": 2, "metadata": {"a": "b"}},
    {
        "input": [
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
            {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
            {"type": "function_call", "call_id": "a", "name": "read", "namespace": "files", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "a", "output": [{"type": "input_text", "text": "rain"}]},
            {"type": "custom_tool_call", "call_id": "b", "name": "patch", "input": "aa"},
            {"type": "custom_tool_call_output", "call_id": "b", "output": "done"},
            {"type": "web_search_call", "id": "c"},
        ],
        "tools": [
            {
                "type": "namespace",
                "name": "files",
                "description": "All.",
                "tools": [{"type": "function", "name": "read"}],
            },
            {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "regex", "definition": "a+"}},
            {"type": "web_search"},
        ],
        "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "custom", "name": "patch"}]},
        "max_output_tokens": 4,
    },
    {
        "input": [{"role": "user", "content": [{"type": "input_image", "image_url": _PIXEL}]}],
        "text": {"format": {"type": "json_schema", "name": "a", "schema": _SCHEMA, "strict": True}},
        "reasoning": {"effort": "low"},
    },
]
MESSAGES: list[dict[str, Any]] = [
    {
        "system": [{"type": "text", "text": "x-anthropic-billing-header: a=b"}, {"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}]},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Hm.", "signature": "x"},
                    {"type": "tool_use", "id": "a", "name": "weather", "input": {"town": "Oslo"}},
                    {"type": "server_tool_use", "id": "b", "name": "web_search", "input": {}},
                ],
            },
            {"role": "system", "content": "It rains."},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "a", "content": [{"type": "text", "text": "rain"}]},
                    {"type": "document", "source": {"type": "text", "data": "All."}, "title": "Book"},
                ],
            },
        ],
        "tools": [
            {"name": "weather", "input_schema": {"type": "object", "properties": {"town": {"type": "string"}}}},
            {"type": "web_search_20250305", "name": "web_search"},
        ],
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": True},
        "max_tokens": 4,
    },
    {
        "messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": _PIXEL}}]}],
        "thinking": {"type": "enabled", "budget_tokens": 2},
        "output_config": {"effort": "low", "format": {"type": "json_schema", "schema": _SCHEMA}},
        "stop_sequences": ["x"],
        "max_tokens": 4,
    },
    {"messages": [{"role": "user", "content": "Hi"}], "system": "Be brief.", "max_tokens": 4, "top_k": 3},
]

# Without keep_alive: the models must be the same ones at the end.
OLLAMA: list[tuple[str, dict[str, Any]]] = [
    (
        "/api/chat",
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Hi", "images": [_PIXEL.partition(",")[2]]},
                {
                    "role": "assistant",
                    "thinking": "Hm.",
                    "tool_calls": [{"function": {"name": "weather", "arguments": {}}}],
                },
                {"role": "tool", "content": "rain", "tool_name": "weather"},
            ],
            "tools": [_TOOL],
            "think": "low",
            "options": {"num_predict": 4},
        },
    ),
    (
        "/api/chat",
        {
            "messages": [{"role": "user", "content": "Hi"}],
            "format": _SCHEMA,
            "logprobs": True,
            "top_logprobs": 2,
            "options": {"num_predict": 4, "temperature": 0.5, "repeat_last_n": 9, "stop": ["a"], "mirostat": 1},
        },
    ),
    ("/api/generate", {"prompt": "Hi", "system": "Be brief.", "format": "json", "options": {"num_predict": 4}}),
    ("/api/generate", {"prompt": "Hi", "raw": True, "options": {"num_predict": 4, "seed": 1}}),
]

SPEECH = {
    "input": "Hi there.",
    "voice": {"id": "alba"},
    "response_format": "wav",
    "speed": 1,
    "stream_format": "sse",
    "seed": 1,
}

SOUND = "<a sound>"  # in a form; stands for the bytes of one
FORM = {
    "file": SOUND,
    "language": "en",
    "prompt": "Ada",
    "response_format": "verbose_json",
    "temperature": "0",
    "timestamp_granularities[]": ["word", "segment"],
    "stream": "false",
    "include[]": ["logprobs"],
    "chunking_strategy[type]": "server_vad",
}
