"""What config.json says in repositories of audio models, as their authors and as conversions for MLX write it: the
fields that decide, and some that could mislead."""

from typing import Any

_LLAMA = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "max_position_embeddings": 131072}
_NEMO = "nemo.collections.asr.models"

# (config.json, mlx-audio's name)
TRANSCRIBERS: list[tuple[dict[str, Any], str]] = [
    # openai/whisper-large-v3 and the conversions that keep its form
    (
        {
            "model_type": "whisper",
            "architectures": ["WhisperForConditionalGeneration"],
            "d_model": 1280,
            "encoder_layers": 32,
            "num_mel_bins": 128,
            "max_source_positions": 1500,
            "max_target_positions": 448,
            "vocab_size": 51866,
        },
        "whisper",
    ),
    # mlx-community/whisper-tiny-mlx: mlx-whisper's form, with the type and without
    (
        {
            "n_mels": 80,
            "n_audio_ctx": 1500,
            "n_audio_state": 384,
            "n_audio_head": 6,
            "n_audio_layer": 4,
            "n_vocab": 51865,
            "n_text_ctx": 448,
            "n_text_state": 384,
            "n_text_head": 6,
            "n_text_layer": 4,
        },
        "whisper",
    ),
    ({"model_type": "whisper", "n_mels": 128, "n_audio_ctx": 1500, "quantization": {"bits": 4}}, "whisper"),
    # mlx-community/parakeet-tdt-0.6b-v3: the configuration of NeMo
    (
        {
            "target": f"{_NEMO}.rnnt_bpe_models.EncDecRNNTBPEModel",
            "sample_rate": 16000,
            "preprocessor": {"sample_rate": 16000, "features": 128},
            "decoding": {"model_type": "tdt"},
            "joint": {"vocabulary": []},
        },
        "parakeet",
    ),
    ({"target": f"{_NEMO}.hybrid_rnnt_ctc_bpe_models.EncDecHybridRNNTCTCBPEModel", "sample_rate": 16000}, "parakeet"),
    ({"target": f"{_NEMO}.ctc_bpe_models.EncDecCTCModelBPE"}, "parakeet"),
    ({"target": f"{_NEMO}.aed_multitask_models.EncDecMultiTaskModel", "sample_rate": 16000}, "canary"),
    ({"model_type": "parakeet_tdt", "architectures": ["ParakeetForTDT"]}, "parakeet_tdt"),
    ({"model_type": "nemotron_asr_streaming"}, "nemotron_asr"),
    # mistralai/Voxtral-Mini-3B-2507
    (
        {
            "model_type": "voxtral",
            "architectures": ["VoxtralForConditionalGeneration"],
            "audio_config": {"model_type": "voxtral_encoder"},
            "text_config": _LLAMA,
            "audio_token_id": 24,
        },
        "voxtral",
    ),
    ({"model_type": "voxtral_realtime", "audio_config": {}, "text_config": {}}, "voxtral_realtime"),
    # Qwen/Qwen3-ASR-0.6B
    (
        {
            "model_type": "qwen3_asr",
            "architectures": ["Qwen3ASRForConditionalGeneration"],
            "thinker_config": {"model_type": "qwen3_asr", "audio_config": {}, "text_config": {}},
        },
        "qwen3_asr",
    ),
    # UsefulSensors/moonshine-base
    (
        {
            "model_type": "moonshine",
            "architectures": ["MoonshineForConditionalGeneration"],
            "max_position_embeddings": 194,
        },
        "moonshine",
    ),
    ({"model_type": "qwen2_audio", "audio_config": {}, "text_config": {"model_type": "qwen2"}}, "qwen2_audio"),
    (
        {"model_type": "granite_speech", "encoder_config": {}, "text_config": {"model_type": "granite"}},
        "granite_speech",
    ),
    ({"model_type": "Glmasr", "architectures": ["GlmasrForConditionalGeneration"], "lm_config": {}}, "glmasr"),
    ({"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForCTC"], "vocab_size": 154}, "mms"),
    ({"model_type": "vibevoice", "architectures": ["VibeVoiceForASRTraining"]}, "vibevoice_asr"),
]

SPEAKERS: list[tuple[dict[str, Any], str]] = [
    # hexgrad/Kokoro-82M and mlx-community/Kokoro-82M-bf16
    (
        {
            "istftnet": {"upsample_rates": [10, 6]},
            "dim_in": 64,
            "hidden_dim": 512,
            "n_mels": 80,
            "style_dim": 128,
            "multispeaker": True,
            "plbert": {"hidden_size": 768, "max_position_embeddings": 512},
            "vocab": {"a": 43},
        },
        "kokoro",
    ),
    ({"model_type": "kokoro", "istftnet": {}, "plbert": {}, "sample_rate": 24000}, "kokoro"),
    ({"model_type": "kitten_tts", "istftnet": {}, "plbert": {}, "style_dim": 128}, "kitten_tts"),
    # Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice
    (
        {
            "model_type": "qwen3_tts",
            "architectures": ["Qwen3TTSForConditionalGeneration"],
            "talker_config": {"spk_id": {"vivian": 3065}},
            "tokenizer_type": "qwen3_tts_tokenizer_12hz",
        },
        "qwen3_tts",
    ),
    # sesame/csm-1b: as it came, and as transformers has it
    (
        {
            "backbone_flavor": "llama-1B",
            "decoder_flavor": "llama-100M",
            "text_vocab_size": 128256,
            "audio_vocab_size": 2051,
            "audio_num_codebooks": 32,
        },
        "csm",
    ),
    (
        {
            "model_type": "csm",
            "architectures": ["CsmForConditionalGeneration"],
            "codec_config": {"model_type": "mimi", "sampling_rate": 24000},
            "depth_decoder_config": {"model_type": "csm_depth_decoder_model"},
            "max_position_embeddings": 2048,
        },
        "csm",
    ),
    ({"model_type": "outetts", "vocab_size": 134400, "max_position_embeddings": 131072}, "outetts"),
    # nari-labs/Dia-1.6B: as it came, and as transformers has it
    (
        {
            "version": "0.1",
            "model": {"encoder": {"n_layer": 12}, "decoder": {"n_layer": 18}},
            "data": {"channels": 9, "delay_pattern": [0, 8, 9]},
            "training": {},
        },
        "dia",
    ),
    ({"model_type": "dia", "encoder_config": {}, "decoder_config": {}, "delay_pattern": [0, 8]}, "dia"),
    ({"model_type": "chatterbox", "t3_config": {}, "s3gen_config": {}, "sample_rate": 24000}, "chatterbox"),
    # kyutai/pocket-tts
    (
        {"flow_lm": {"dtype": "float32"}, "mimi": {"sample_rate": 24000}, "weights_path": "tts.safetensors"},
        "pocket_tts",
    ),
    ({"model_type": "soprano", "hidden_size": 512, "max_position_embeddings": 512}, "soprano"),
    (_LLAMA | {"acoustic_dim": 512, "num_time_classes": 256}, "tada"),
    ({"model_type": "vibevoice", "architectures": ["VibeVoiceForConditionalGeneration"]}, "vibevoice_streaming"),
    ({"model_type": "vibevoice_streaming", "decoder_config": {}}, "vibevoice_streaming"),
]

# Models of other types that have something of an audio model, and their type.
OTHERS: list[tuple[dict[str, Any], str]] = [
    (_LLAMA | {"sample_rate": 24000, "vocab_size": 156940}, "text-gen"),  # Orpheus, which only its name tells apart
    ({"model_type": "qwen3", "architectures": ["Qwen3ForCausalLM"], "sample_rate": 32000}, "text-gen"),
    ({"model_type": "mimo", "architectures": ["MiMoForCausalLM"]}, "text-gen"),
    ({"model_type": "glm", "architectures": ["GlmForCausalLM"], "audio_config": {}}, "text-gen"),
    ({"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"], "codec_config": {}}, "text-gen"),
    # What mlx-vlm runs may hear and stays with it.
    ({"model_type": "qwen3_omni_moe", "thinker_config": {"audio_config": {}, "vision_config": {}}}, "vision"),
    ({"model_type": "phi4mm", "audio_processor": {}, "embd_layer": {}}, "vision"),
    ({"model_type": "minicpmo", "vision_config": {}, "audio_config": {}}, "vision"),
    ({"model_type": "gemma3n", "vision_config": {}, "audio_config": {}}, "vision"),
    ({"model_type": "gemma4", "vision_config": {}, "audio_config": {}}, "vision"),
]
