"""Exports of tiny language models: one function an exporter, one name an export.

Run by the environments of the exporters. Each function writes ``model.onnx`` into a folder.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import runpy
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from tests.llm.checkpoints import checkpoint, new_model

__all__ = ["EXPORTS"]

Export = Callable[[Path, Path], None]
"""Writes an export; the arguments are its folder, and the one of all of them."""

_CHECKPOINTS = "checkpoints"
_BLOCK = 32


def _builder(architecture: str, precision: str, *options: str) -> Export:
    """The model builder of ONNX Runtime GenAI."""

    def export(folder: Path, cache: Path) -> None:
        source = checkpoint(architecture, cache / _CHECKPOINTS)
        if architecture == "gpt_oss" and precision == "int4":
            source = _with_packed_experts(source)
        arguments = ["-i", source, "-o", folder, "-p", precision, "-e", "cpu", "-c", cache / "builder"]
        with _arguments("builder", *arguments, "--extra_options", "hf_token=false", *options):
            runpy.run_module("onnxruntime_genai.models.builder", run_name="__main__")

    return export


def _with_packed_experts(source: Path) -> Path:
    """The checkpoint of a gpt-oss model with its experts as they are published, in blocks of MXFP4; of random ones."""
    import torch
    from safetensors.torch import load_file, save_file

    target = source.with_name(f"{source.name}_mxfp4")
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)
    tensors = load_file(source / "model.safetensors")
    draw = torch.Generator().manual_seed(0)
    for name in [name for name in tensors if name.endswith("_proj") and ".experts." in name]:
        experts, inputs, outputs = tensors.pop(name).shape
        blocks = (experts, outputs, inputs // 32)
        tensors[f"{name}_blocks"] = torch.randint(0, 256, (*blocks, 16), generator=draw, dtype=torch.uint8)
        tensors[f"{name}_scales"] = torch.randint(118, 122, blocks, generator=draw, dtype=torch.uint8)  # 2^-9 to 2^-6
    save_file(tensors, target / "model.safetensors", {"format": "pt"})
    config = json.loads((target / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4"}
    (target / "config.json").write_text(json.dumps(config))
    return target


def _mobius(architecture: str, *options: str) -> Export:
    """The program of Mobius."""

    def export(folder: Path, cache: Path) -> None:
        arguments = ("build", "--config", checkpoint(architecture, cache / _CHECKPOINTS), folder, *options)
        with _arguments("mobius", *arguments):
            importlib.import_module("mobius.__main__").main()

    return export


def _torch(architecture: str, opset: int, *, past: bool = False, **changes: Any) -> Export:
    """``torch.onnx.export`` of a model of Transformers, without a cache or with one."""

    def export(folder: Path, _: Path) -> None:
        import torch
        from transformers import DynamicCache

        model = new_model(architecture, **changes)
        config = model.config
        head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        cached = torch.zeros(1, config.num_key_value_heads, 3, head_size)
        caches = [(cached, cached.clone())] * config.num_hidden_layers if past else []

        class Decoder(torch.nn.Module):
            """With tensors alone as its inputs and outputs."""

            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids, attention_mask, past_key_values=()):
                cache = None
                if past_key_values:
                    cache = DynamicCache(config=config)
                    for layer, (key, value) in enumerate(past_key_values):
                        cache.update(key, value, layer)
                found = self.model(
                    input_ids=input_ids, attention_mask=attention_mask, past_key_values=cache, use_cache=bool(caches)
                )
                if not past_key_values:
                    return found.logits
                return found.logits, [part for layer in cache.layers for part in (layer.keys, layer.values)]

        parts = [f"{layer}.{part}" for layer in range(len(caches)) for part in ("key", "value")]
        auto = torch.export.Dim.AUTO
        tokens, mask = torch.tensor([[5, 6, 7, 8]]), torch.ones(1, 7 if past else 4, dtype=torch.int64)
        program = torch.onnx.export(
            Decoder().eval(),
            (tokens, mask, caches) if past else (tokens, mask),
            dynamo=True,
            opset_version=opset,
            dynamic_shapes=({1: auto}, {1: auto}, *([[({2: auto}, {2: auto})] * len(caches)] if past else [])),
            input_names=["input_ids", "attention_mask", *(f"past_key_values.{part}" for part in parts)],
            output_names=["logits", *(f"present.{part}" for part in parts)],
        )
        program.save(folder / "model.onnx")

    return export


def _optimum(
    architecture: str, task: str = "text-generation-with-past", file: str = "model.onnx", **options: Any
) -> Export:
    """Optimum, with the Transformers that it needs. Decoders of two, merged, choose a branch of an If by an input."""

    def export(folder: Path, cache: Path) -> None:
        from optimum.exporters.onnx import main_export

        source = checkpoint(architecture, cache / f"{_CHECKPOINTS}-optimum")
        main_export(str(source), output=folder, task=task, device="cpu", do_validation=False, **options)
        if file != "model.onnx":
            (folder / file).rename(folder / "model.onnx")

    return export


def _quantized(source: str, quantize: Callable[[onnx.ModelProto], onnx.ModelProto]) -> Export:
    """What a quantizer of ONNX Runtime makes of another export."""

    def export(folder: Path, cache: Path) -> None:
        model = cache / source / "model.onnx"
        if not model.exists():
            EXPORTS[source][1](model.parent, cache)
        onnx.save(quantize(onnx.load(model)), folder / "model.onnx")

    return export


def _blocks(algorithm: str, model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Weights of MatMul in integer blocks."""
    from onnxruntime.quantization import matmul_nbits_quantizer as quantizers
    from onnxruntime.quantization.quant_utils import QuantFormat

    if options.pop("as_qdq", False):
        options["quant_format"] = QuantFormat.QDQ
    config = getattr(quantizers, f"{algorithm}WeightOnlyQuantConfig")(**options)
    quantizer = quantizers.MatMulNBitsQuantizer(model, block_size=_BLOCK, algo_config=config)  # RTN and k-quant take it
    quantizer.process()
    return quantizer.model.model


def _bnb4(quant_type: int, model: onnx.ModelProto) -> onnx.ModelProto:
    """Weights of MatMul in the four bits of bitsandbytes: 0 for FP4, 1 for NF4."""
    from onnxruntime.quantization.matmul_bnb4_quantizer import MatMulBnb4Quantizer

    quantizer = MatMulBnb4Quantizer(model, quant_type, block_size=64)
    quantizer.process()
    return quantizer.model.model


def _dynamic(model: onnx.ModelProto, **options: Any) -> onnx.ModelProto:
    """Weights of int8, activations quantized in each run."""
    from onnxruntime.quantization import quantize_dynamic

    with tempfile.TemporaryDirectory() as folder:
        quantize_dynamic(model, Path(folder) / "model.onnx", **options)
        return onnx.load(Path(folder) / "model.onnx")


@contextlib.contextmanager
def _arguments(program: str, *arguments: object) -> Iterator[None]:
    """Let a program find these arguments; that it ends well is no exception."""
    before = sys.argv
    sys.argv = [program, *map(str, arguments)]
    try:
        yield
    except SystemExit as left:
        if left.code:
            raise RuntimeError(f"{program} ends with {left.code}") from left
    finally:
        sys.argv = before


_RTN, _KQUANT, _HQQ = "RTN", "KQuant", "HQQ"

# By name: the environment, and what makes it.
EXPORTS: dict[str, tuple[str, Export]] = {
    **{
        f"genai_{architecture}_{precision}": ("genai", _builder(architecture, precision))
        for architecture, precision in (
            ("llama", "fp32"),
            ("llama", "fp16"),
            ("llama", "int4"),
            ("llama", "int8"),
            ("llama_128", "fp32"),
            ("llama_tied", "fp32"),
            ("llama_tied", "int4"),
            ("qwen2", "fp32"),
            ("qwen2", "int4"),
            ("qwen3", "fp16"),
            ("qwen3", "int8"),
            ("phi", "fp32"),
            ("phi3", "int4"),
            ("gemma", "int4"),
            ("gemma2", "fp32"),
            ("gemma2", "int4"),
            ("gpt_oss", "fp32"),
            ("gpt_oss", "int4"),
        )
    },
    "genai_llama_int4_qdq": ("genai", _builder("llama", "int4", "use_qdq=true")),
    "genai_llama_int4_kquant": ("genai", _builder("llama_128", "int4", "algo_config=k_quant_last")),
    "genai_llama_int4_asymmetric": ("genai", _builder("llama", "int4", "is_symmetric=false")),
    "genai_llama_int4_exact": ("genai", _builder("llama", "int4", "accuracy_level=0", "block_size=16")),
    "genai_qwen2_int4_qdq": ("genai", _builder("qwen2", "int4", "use_qdq=true", "is_symmetric=false")),
    "mobius_llama_fp32": ("genai", _mobius("llama")),
    "mobius_llama_fp16": ("genai", _mobius("llama", "--dtype", "f16")),
    "mobius_llama_static_cache": ("genai", _mobius("llama", "--static-cache", "--max-seq-len", "32")),
    "mobius_llama_tied_fp32": ("genai", _mobius("llama_tied")),
    "mobius_qwen2_optimized": ("genai", _mobius("qwen2", "--optimize")),
    "mobius_qwen3_cpu": ("genai", _mobius("qwen3", "--ep", "cpu")),
    "mobius_phi3_fp32": ("genai", _mobius("phi3")),
    "mobius_mixtral_fp32": ("genai", _mobius("mixtral")),
    "mobius_qwen3_moe_fp32": ("genai", _mobius("qwen3_moe")),
    "torch_llama_18": ("genai", _torch("llama", 18)),
    "torch_llama_23_past": ("genai", _torch("llama", 23, past=True)),
    "torch_qwen2_18_past": ("genai", _torch("qwen2", 18, past=True)),
    "torch_phi_23": ("genai", _torch("phi", 23)),
    "torch_gemma2_18": ("genai", _torch("gemma2", 18)),
    "torch_mixtral_23": ("genai", _torch("mixtral", 23, experts_implementation="batched_mm")),
    "torch_qwen3_moe_23": ("genai", _torch("qwen3_moe", 23, experts_implementation="batched_mm")),
    **{
        f"optimum_{architecture}": ("optimum", _optimum(architecture))
        for architecture in ("llama", "qwen2", "qwen3", "phi", "phi3", "gemma", "gemma2", "qwen3_moe")
    },
    "optimum_llama_o2": ("optimum", _optimum("llama", optimize="O2")),
    **{
        f"optimum_{architecture}_merged": (
            "optimum",
            _optimum(architecture, "text2text-generation-with-past", "decoder_model_merged.onnx"),
        )
        for architecture in ("t5", "bart")
    },
    **{
        f"ort_{name}": ("genai", _quantized("genai_llama_128_fp32", partial(_blocks, algorithm, **options)))
        for name, (algorithm, options) in {
            "rtn_int4": (_RTN, {}),
            "kquant_int4": (_KQUANT, {}),
            "hqq_int4": (_HQQ, {"block_size": 32}),
            "default_int4_128": ("Default", {"block_size": 128, "is_symmetric": True}),
            "default_int8": ("Default", {"block_size": 32, "bits": 8}),
            "default_int2": ("Default", {"block_size": 32, "bits": 2}),
            "default_int4_qdq": ("Default", {"block_size": 32, "as_qdq": True, "is_symmetric": True}),
        }.items()
    },
    "ort_bnb4_nf4": ("genai", _quantized("genai_llama_fp32", partial(_bnb4, 1))),
    "ort_bnb4_fp4": ("genai", _quantized("genai_llama_fp32", partial(_bnb4, 0))),
    "ort_dynamic_int8": ("genai", _quantized("genai_llama_fp32", _dynamic)),
    "ort_dynamic_int8_channels": ("genai", _quantized("genai_llama_fp32", partial(_dynamic, per_channel=True))),
}
