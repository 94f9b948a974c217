"""The settings of a text model."""

from dataclasses import dataclass

from worker.chat.writer import TOOL_FORMS
from worker.options import folder_path, one_of, template, whole_number


@dataclass(slots=True, frozen=True)
class TextOptions:
    """completion_batch_size: sequences that decode together; prefill_batch_size: prompts that prefill together;
    prefill_step_size: tokens of all prompts together per step, at most. prompt_cache_tokens, prompt_cache_bytes: size
    of the prompt cache, 0 for none; bytes None for a share of the memory limit. context_length: tokens, 0 for the
    model's own. adapter_path: the folder of a LoRA adapter. chat_template: its text or file. tool_form: how chats have
    tools, None for the template's form where it writes all, else the generic one. draft_model: a folder;
    num_draft_tokens: how many tokens it proposes at a time. kv_bits: of the key-value cache, None for no quantisation;
    kv_group_size: numbers that share a scale; quantized_kv_start: tokens from which on a cache is quantised."""

    completion_batch_size: int = whole_number(32)
    prefill_batch_size: int = whole_number(32)
    prefill_step_size: int = whole_number(2048)
    prompt_cache_tokens: int = whole_number(131_072, least=0)
    prompt_cache_bytes: int | None = whole_number(None, least=0)
    context_length: int = whole_number(0, least=0)
    adapter_path: str | None = folder_path()
    chat_template: str | None = template()
    tool_form: str | None = one_of(*TOOL_FORMS)
    draft_model: str | None = folder_path()
    num_draft_tokens: int = whole_number(3)
    kv_bits: int | None = whole_number(None)
    kv_group_size: int = whole_number(64)
    quantized_kv_start: int = whole_number(5000, least=0)
