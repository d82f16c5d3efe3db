"""Small random models of transformers, built from the configuration classes of the installed package."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn
from transformers import AutoModel, PretrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

# Text of every make, mixtures of experts, state spaces, vision, audio, encoder-decoders, two modalities, time series.
ARCHITECTURES = (
    "albert bert big_bird biogpt bitnet bloom camembert canine codegen cohere cohere2 convbert ctrl cwm "
    "data2vec-text deberta deberta-v2 deepseek_v3 diffllama distilbert doge dots1 electra ernie4_5 ernie4_5_moe esm "
    "eurobert exaone4 falcon falcon_mamba flaubert fnet gemma gemma2 gemma3_text gemma3n_text glm glm4 glm4_moe "
    "gpt2 gpt_bigcode gpt_neo gpt_neox gpt_oss gptj granite granitemoe helium ibert internlm3 jamba jetmoe lfm2 "
    "llama llama4_text mamba mamba2 megatron-bert minimax ministral mistral mixtral mobilebert modernbert mpnet mpt "
    "nanochat nemotron nomic_bert nystromformer olmo olmo2 olmo3 olmoe openai-gpt opt persimmon phi phi3 phimoe "
    "qwen2 qwen2_moe qwen3 qwen3_moe qwen3_next recurrent_gemma rembert roberta roformer rwkv seed_oss smollm3 "
    "squeezebert stablelm starcoder2 xglm xlm xlm-roberta-xl xlnet yoso zamba2 bart blenderbot led longt5 m2m_100 "
    "marian mbart mt5 mvp pegasus plbart prophetnet switch_transformers t5 umt5 beit bit convnext convnextv2 cvt "
    "data2vec-vision deit dinat dinov2 dinov3_vit dpt efficientnet focalnet glpn hiera ijepa imagegpt levit "
    "mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2 poolformer pvt pvt_v2 regnet resnet segformer "
    "siglip_vision_model swiftformer swin swin2sr swinv2 textnet timesformer videomae vit vit_mae vit_msn vivit "
    "yolos audio-spectrogram-transformer hubert sew speech_to_text unispeech wav2vec2 wav2vec2-conformer wavlm "
    "whisper clip siglip blip vilt patchtst "
).split()

_LAYERS = {
    "num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers", "num_encoder_layers",
    "num_decoder_layers", "depth",
}  # fmt: skip
_SMALL: dict[str, Any] = {
    **dict.fromkeys(("hidden_size", "n_embd", "d_model", "dim", "embed_dim", "emb_dim", "embedding_size"), 64),
    **dict.fromkeys(("attention_hidden_size", "word_embed_proj_dim", "conv_dim_", "hidden_dim_", "projection_dim"), 64),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"), 4),
    **dict.fromkeys(("decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads",), 2),
    **dict.fromkeys(("head_dim", "kv_channels", "d_kv", "linear_key_head_dim", "linear_value_head_dim"), 16),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "encoder_ffn_dim", "decoder_ffn_dim", "n_inner_"), 96),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "hidden_dim", "dff"), 96),
    **dict.fromkeys(("vocab_size", "entity_vocab_size", "vocab_size_per_layer_input"), 120),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "num_experts_"), 4),
    **dict.fromkeys(("num_experts_per_tok", "moe_k", "num_selected_experts"), 2),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "num_mem_heads"), 4),
    **dict.fromkeys(("q_lora_rank", "kv_lora_rank", "dt_rank_"), 32),
    **dict.fromkeys(("qk_nope_head_dim", "v_head_dim", "rotary_dim", "qk_head_dim_"), 16),
    **dict.fromkeys(("max_source_positions", "max_length_"), 50),
    "qk_rope_head_dim": 16,
    "num_kv_shared_layers": 0,
    "n_group": 1,
    "topk_group": 1,
    "lru_width": 64,
    "hidden_size_per_layer_input": 16,
    "image_size": 64,
    "num_conv_pos_embeddings": 16,
    "num_frames": 4,
    "max_length": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "use_cache": False,
}  # fmt: skip


def small_config(kind: type[PretrainedConfig]) -> PretrainedConfig:
    """A configuration of few and narrow layers; nested ones are shrunk, too, and lists by layer cut."""
    usual = kind()
    known = set(inspect.signature(kind.__init__).parameters) | set(vars(usual))
    given = {name: value for name, value in _SMALL.items() if name in known and _is_alike(name, usual)}
    if isinstance(getattr(usual, "image_size", None), (list, tuple)):
        given["image_size"] = [64] * len(usual.image_size)
    if "kv_lora_rank" in known:
        given["num_key_value_heads"] = given["num_attention_heads"]
    if {"expand", "num_heads", "head_dim"} <= known:
        given["num_heads"] = usual.expand * given["hidden_size"] // given["head_dim"]
    mapped = {usual.attribute_map.get(name, name): value for name, value in given.items()}
    types = getattr(usual, "layer_types", None) or getattr(usual, "layers_block_type", None) or []
    layers = max(2, *(types.index(one) + 1 for one in set(types)), 0)
    for name in _LAYERS & known:
        if isinstance(getattr(usual, name, None), int):
            mapped[name] = layers
    total = getattr(usual, "num_hidden_layers", None)
    for name, value in vars(usual).items():
        if isinstance(value, (list, tuple)) and total and len(value) == total and not name.startswith("_"):
            mapped[name] = list(value[:layers])
    for name, nested in getattr(kind, "sub_configs", {}).items():
        if isinstance(getattr(usual, name, None), PretrainedConfig) and nested is not None:
            mapped[name] = small_config(type(getattr(usual, name))).to_dict()
    return kind(**mapped)


def _is_alike(name: str, usual: PretrainedConfig) -> bool:
    """Whether a number may take the place of what a configuration usually has."""
    return name == "vocab_size" or isinstance(getattr(usual, name, 1), (int, float, bool))


def small_transformer(name: str) -> tuple[str, tuple[nn.Module, Any]]:
    """A model of one architecture and a batch of two samples: (its class, (model, example))."""
    config = small_config(CONFIG_MAPPING[name])
    model = AutoModel.from_config(config, attn_implementation="eager" if name in _EAGER else None)
    example = _inputs(model.eval(), config)
    with torch.no_grad():
        model(**example)
    return type(model).__name__, (model, example)


_EAGER: set[str] = set()


def _inputs(model: nn.Module, config: Any) -> dict[str, torch.Tensor]:
    accepted = inspect.signature(model.forward).parameters
    text = getattr(config, "text_config", config)
    vision = getattr(config, "vision_config", config)
    ids = torch.randint(3, min(100, getattr(text, "vocab_size", 100)), (2, 16))
    main = model.main_input_name
    inputs: dict[str, torch.Tensor] = {}
    if main == "input_ids" or (main == "pixel_values" and "input_ids" in accepted and hasattr(text, "vocab_size")):
        inputs["input_ids"] = ids
    if main == "pixel_values" or "pixel_values" in accepted:
        size = getattr(vision, "image_size", 64)
        high, wide = (size, size) if isinstance(size, int) else size
        frames = (
            (getattr(vision, "num_frames", 0),) if hasattr(vision, "tubelet_size") or "frames" in vars(vision) else ()
        )
        if hasattr(vision, "num_frames") and not frames:
            frames = (vision.num_frames,)
        inputs["pixel_values"] = torch.randn(2, *frames, getattr(vision, "num_channels", 3), high, wide)
    if main == "input_values":
        mels = getattr(config, "num_mel_bins", None)
        inputs[main] = torch.randn(2, config.max_length, mels) if mels else torch.randn(2, 4000)
    if main == "input_features":
        mels = getattr(config, "num_mel_bins", None) or config.input_feat_per_channel
        swapped = type(model).__name__.startswith("Speech2Text")
        inputs[main] = torch.randn(2, 100, mels) if swapped else torch.randn(2, mels, 100)
    if main == "past_values":
        inputs[main] = torch.randn(2, config.context_length, config.num_input_channels)
    if getattr(config, "is_encoder_decoder", False) and "decoder_input_ids" in accepted:
        inputs["decoder_input_ids"] = ids[:, :10]
    return inputs
