"""Small random models of transformers, a family each, and the same models with silenced layers as a reference."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

_TOKENS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_hidden_layers": 4}
_DECODER = {**_SIZES, **_TOKENS, "vocab_size": 99, "num_key_value_heads": 2}


@dataclass(frozen=True)
class Family:
    """One family: its classes, arguments of its configuration, and the lists of its layers."""

    model: str
    config: str
    arguments: Mapping[str, Any]
    lists: tuple[str, ...] = ("model.layers",)
    image: int | None = None
    decodes: bool = False

    def make(self) -> Any:
        """A model with random weights, in eval mode."""
        import transformers

        config = getattr(transformers, self.config)(**self.arguments)
        torch.manual_seed(0)
        return getattr(transformers, self.model)(config).eval()

    def example(self) -> dict[str, Tensor]:
        """Two samples, longer than the windows."""
        generator = torch.Generator().manual_seed(1)
        if self.image:
            return {"pixel_values": torch.randn(2, 3, self.image, self.image, generator=generator)}
        ids = torch.randint(3, 99, (2, 12), generator=generator)
        return {"input_ids": ids, "decoder_input_ids": ids[:, :6]} if self.decodes else {"input_ids": ids}


def _decoder(name: str, **more: Any) -> Family:
    return Family(f"{name}ForCausalLM", f"{name}Config", {**_DECODER, **more})


_TOWERS = {
    "d_model": 32, "encoder_layers": 4, "decoder_layers": 4, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "vocab_size": 99, "max_position_embeddings": 64,
    **_TOKENS, "decoder_start_token_id": 2,
}  # fmt: skip
_GPT2 = {"n_layer": 4, "n_embd": 32, "n_head": 4, "vocab_size": 99, "n_positions": 64, **_TOKENS}
_MAMBA = {
    "num_experts": 2, "num_experts_per_tok": 1, "mamba_d_state": 4, "mamba_dt_rank": 4, "num_hidden_layers": 6,
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
}  # fmt: skip
_MLA = {
    "first_k_dense_replace": 1, "n_routed_experts": 4, "moe_intermediate_size": 16, "n_group": 2, "topk_group": 1,
    "num_experts_per_tok": 2, "q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4,
    "v_head_dim": 8,
}  # fmt: skip
_NANO = {
    "num_hidden_layers": 6, "head_dim": 8, "sliding_window": 4, "num_kv_shared_layers": 2, "laurel_rank": 4,
    "layer_types": ["sliding_attention", "full_attention"] * 3, "vocab_size_per_layer_input": 99,
    "hidden_size_per_layer_input": 4, "altup_num_inputs": 2, "activation_sparsity_pattern": [0.0] * 6,
    "intermediate_size": [64] * 6,
}  # fmt: skip
_EXPERTS = {
    "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16, "decoder_sparse_step": 2,
    "mlp_only_layers": [1], "num_experts_per_tok": 2,
}  # fmt: skip
_SWIN = {
    "image_size": 32, "patch_size": 4, "embed_dim": 16, "depths": [2, 4], "num_heads": [2, 4], "window_size": 4
}  # fmt: skip

FAMILIES: dict[str, Family] = {
    "llama": _decoder("Llama"),
    "mistral": _decoder("Mistral", sliding_window=4),
    "qwen2": _decoder("Qwen2", use_sliding_window=True, sliding_window=4, max_window_layers=2),
    "qwen3": _decoder("Qwen3", head_dim=8),
    "gemma2": _decoder("Gemma2", head_dim=8, sliding_window=4),
    "gemma3": Family("Gemma3ForCausalLM", "Gemma3TextConfig", {**_DECODER, "head_dim": 8, "sliding_window": 4}),
    "gemma3n": Family("Gemma3nForCausalLM", "Gemma3nTextConfig", {**_DECODER, **_NANO}),
    "phi": _decoder("Phi"),
    "mixtral": _decoder("Mixtral", num_local_experts=4),
    "qwen2_moe": _decoder("Qwen2Moe", **_EXPERTS),
    "deepseek_v3": _decoder("DeepseekV3", **_MLA),
    "diffllama": _decoder("DiffLlama"),
    "jamba": _decoder("Jamba", **_MAMBA),
    "falcon_h1": _decoder(
        "FalconH1", mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=8, mamba_chunk_size=4
    ),
    "gpt2": Family("GPT2LMHeadModel", "GPT2Config", _GPT2, ("transformer.h",)),
    "gpt2 by index": Family(
        "GPT2LMHeadModel", "GPT2Config", {**_GPT2, "scale_attn_by_inverse_layer_idx": True}, ("transformer.h",)
    ),
    "gpt_neo": Family(
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            "num_layers": 4, "hidden_size": 32, "num_heads": 4, "intermediate_size": 64, "vocab_size": 99,
            "attention_types": [[["global", "local"], 2]], "window_size": 4, "max_position_embeddings": 64, **_TOKENS,
        },
        ("transformer.h",),
    ),
    "opt": Family(
        "OPTForCausalLM",
        "OPTConfig",
        {
            **_SIZES, **_TOKENS, "vocab_size": 99, "ffn_dim": 64, "max_position_embeddings": 64,
            "word_embed_proj_dim": 32,
        },
        ("model.decoder.layers",),
    ),
    "gpt_neox": Family(
        "GPTNeoXForCausalLM", "GPTNeoXConfig", {**_SIZES, **_TOKENS, "vocab_size": 99}, ("gpt_neox.layers",)
    ),
    "bert": Family("BertForMaskedLM", "BertConfig", {**_SIZES, "vocab_size": 99}, ("bert.encoder.layer",)),
    "t5": Family(
        "T5ForConditionalGeneration",
        "T5Config",
        {
            "num_layers": 4, "num_decoder_layers": 4, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4,
            "vocab_size": 99, "decoder_start_token_id": 0,
        },
        ("encoder.block", "decoder.block"),
        decodes=True,
    ),
    "bart": Family(
        "BartForConditionalGeneration",
        "BartConfig",
        _TOWERS,
        ("model.encoder.layers", "model.decoder.layers"),
        decodes=True,
    ),
    "vit": Family(
        "ViTForImageClassification", "ViTConfig", {**_SIZES, "image_size": 16, "patch_size": 8}, ("vit.layers",), 16
    ),
    "dinov2": Family(
        "Dinov2ForImageClassification",
        "Dinov2Config",
        {"hidden_size": 32, "num_hidden_layers": 4, "num_attention_heads": 4, "image_size": 28, "patch_size": 14},
        ("dinov2.encoder.layer",),
        28,
    ),
    "swin": Family("SwinForImageClassification", "SwinConfig", _SWIN, ("swin.encoder.layers.1.blocks",), 32),
    "convnext": Family(
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {"image_size": 32, "hidden_sizes": [8, 16, 16, 16], "depths": [2, 2, 4, 2]},
        ("convnext.encoder.stages.2.layers",),
        32,
    ),
}  # fmt: skip


@contextmanager
def silent_layers(layers: Sequence[nn.Module]) -> Iterator[None]:
    """Layers that return the state that they are given, and whatever else they return, as they are."""

    def hook(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
        state = args[0] if args else kwargs["hidden_states"]
        return state if isinstance(output, Tensor) else (state, *output[1:])

    handles = [layer.register_forward_hook(hook, with_kwargs=True) for layer in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def logits(model: Any, example: Mapping[str, Tensor]) -> Tensor:
    """What a model gives, without a cache."""
    more = {"use_cache": False} if "input_ids" in example else {}
    with torch.no_grad():
        found: Tensor = model(**example, **more).logits
    return found
