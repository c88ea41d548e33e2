"""Checkpoints of language models with random weights, small enough that an export takes a second.

Run by the environments of the exporters, which have PyTorch and Transformers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    import transformers

__all__ = ["ARCHITECTURES", "checkpoint", "new_model"]

VOCABULARY = 256

_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
    "tie_word_embeddings": False,
}

# By name: the class of the configuration, and what of it is not as in the others. Rows of 128 or 64 elements, of which
# blocks of 32 are quantized; 96 of `down_proj` are three blocks, an odd number of them.
ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {}),
    "llama_tied": ("LlamaConfig", {"tie_word_embeddings": True}),
    "llama_128": ("LlamaConfig", {"intermediate_size": 128, "tie_word_embeddings": True}),  # k-quant takes even blocks
    "qwen2": ("Qwen2Config", {}),
    "qwen3": ("Qwen3Config", {"head_dim": 16}),
    # ONNX Runtime rotates a multiple of 16 elements of each head.
    "phi": ("PhiConfig", {"num_attention_heads": 2, "num_key_value_heads": 2, "partial_rotary_factor": 0.5}),
    "phi3": ("Phi3Config", {"num_key_value_heads": 4, "original_max_position_embeddings": 128}),
    "gemma": ("GemmaConfig", {"head_dim": 16, "tie_word_embeddings": True}),
    "gemma2": (
        "Gemma2Config",
        {"head_dim": 16, "query_pre_attn_scalar": 16, "sliding_window": 16, "tie_word_embeddings": True},
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {
            "head_dim": 16,
            "intermediate_size": 64,
            "num_local_experts": 4,
            "num_experts_per_tok": 2,
            "sliding_window": 16,
        },
    ),
    "t5": (
        "T5Config",
        {"d_model": 64, "d_ff": 96, "d_kv": 16, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0},
    ),
    "bart": (
        "BartConfig",
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 96,
            "decoder_ffn_dim": 96,
            "decoder_start_token_id": 2,
        },
    ),
}

_WITH_ENCODER = {"t5", "bart"}
_NOT_OF_THEIRS = {"hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads"}


def new_model(name: str, **changes: Any) -> transformers.PreTrainedModel:
    """A model of an architecture, whose weights are the same ones each time."""
    import torch
    import transformers

    kind, own = ARCHITECTURES[name]
    common = {key: value for key, value in _COMMON.items() if name not in _WITH_ENCODER or key not in _NOT_OF_THEIRS}
    config = getattr(transformers, kind)(**{**common, **own, **changes})
    torch.manual_seed(0)
    classes = transformers.AutoModelForSeq2SeqLM if name in _WITH_ENCODER else transformers.AutoModelForCausalLM
    return classes.from_config(config).eval()


def checkpoint(name: str, folder: Path) -> Path:
    """The folder with a checkpoint and a tokenizer, as exporters read them; made if it is not there."""
    target = folder / name
    if not (target / "tokenizer.json").exists():
        new_model(name).save_pretrained(target)
        _tokenizer().save_pretrained(target)
    return target


def _tokenizer() -> transformers.PreTrainedTokenizerFast:
    """A tokenizer of as many words as the vocabulary has, which stand for nothing."""
    import transformers
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import Whitespace

    words = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3} | {f"w{index}": index for index in range(4, VOCABULARY)}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))  # noqa: S106 - a word
    tokenizer.pre_tokenizer = Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",  # noqa: S106
        eos_token="</s>",  # noqa: S106
        pad_token="<pad>",  # noqa: S106
        unk_token="<unk>",  # noqa: S106
    )
