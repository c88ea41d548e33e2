"""Writes a first configuration for a model, in which everything stands as a comment."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from onnx_gconv.weights import FoundWeight, WeightSurvey

__all__ = ["SCHEMA_FILE", "starting_file"]

SCHEMA_FILE = "gconv.schema.json"

_HEAD = """\
#:schema ./{schema}
# How onnx-gconv maps {model}: onnx-gconv map MODEL --config THIS_FILE
#
# Every setting stands here with its default, as a comment: take the # away and change it. For completion and help in
# editors that know the first line (Taplo, Even Better TOML): onnx-gconv config schema -o {schema}

[defaults]                    # for all weights that no override says otherwise of
# device = {{ g_min = 0.0, g_max = 25.0 }}  # µS; or a preset, "pcm-joshi", or {{ preset = "pcm-joshi", g_max = 20.0 }}
# converter = "single-pair"   # or {{ name = "n-pair", factors = [1, 3] }}, {{ name = "single-pair", exact = true }}
# granularity = "tensor"      # "channel", "tile", "tile-channel", or {{ kind = "tile", tile = "256x256" }}
# clipping = "max"            # or {{ percentile = 99.9 }}, or {{ value = 0.5 }}
# levels = "none"             # or how many, 256, or a list of them in µS, [0.0, 1.5, 25.0], or "preset"
# storage = "float"           # or "codes", if there are levels

[model]                         # what concerns the whole model
# include = []                  # globs over the names of weights, parameters, nodes, modules and op types
# exclude = []
# include_ops = []              # or ["Gather"], for the tables of embeddings
# quantized = "map"             # or "skip": weights of integer codes
# conductance_dtype = "float32" # or "weight": of float16 and bfloat16 weights
# freeze_inputs = false         # whether weights that are graph inputs become constants
# inline_functions = true       # whether local functions that use weights are inlined
# upgrade_opset = false         # whether the opset is raised where weights cannot be mapped at the model's own
# shared = "rebuild"            # or "split": a digital copy for nodes that are no MVM ops

# Overrides are applied in their order, and each setting that they give replaces what was said before. One is for the
# weights that match all the kinds of patterns in it: weight, parameter, node, module, op, or match for any of these.
# Settings are those of [defaults], and skip.
#
# [[overrides]]
# {example}
# granularity = "channel"
#
# [[overrides]]
# match = "*.head.*"
# skip = true
"""


def starting_file(model: str, survey: WeightSurvey) -> str:
    """A configuration that says nothing but the defaults, with the weights of a model as comments.

    Args:
        model: What the file calls the model.
        survey: Its weights.
    """
    lines = ["", *_listed(survey.weights)]
    example = f"weight = {_pattern(survey.weights[0].name)}" if survey.weights else 'op = "Conv"'
    head = _HEAD.format(schema=SCHEMA_FILE, model=_text(model), example=example)
    return "\n".join((*head.splitlines(), *lines, ""))


def _listed(weights: Iterable[FoundWeight]) -> Iterator[str]:
    lines = [_described(weight) for weight in weights]
    if not lines:
        yield "# The model has no weight that can be mapped."
        return
    yield f"# The weights that can be mapped ({len(lines)}), in the patterns that match each of them:"
    yield from lines


def _described(weight: FoundWeight) -> str:
    names = weight.names
    shape = "x".join(map(str, weight.shape))
    parts = [f"# weight = {_pattern(weight.name)}", shape]
    parts += [f"op = {_patterns(names.op)}"]
    if names.node:
        parts.append(f"node = {_patterns(names.node)}")
    if parameters := [name for name in names.parameter if name != weight.name]:
        parts.append(f"parameter = {_patterns(parameters)}")
    return "   ".join(parts)


def _patterns(names: Iterable[str]) -> str:
    patterns = [_pattern(name) for name in names]
    return patterns[0] if len(patterns) == 1 else f"[{', '.join(patterns)}]"


def _pattern(name: str) -> str:
    """A glob that matches a name and nothing else, as TOML."""
    return _text("".join(f"[{character}]" if character in "*?[" else character for character in name))


def _text(text: str) -> str:
    """A text as TOML has it; characters that could end a comment or change what is shown are escaped."""
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in {'"', "\\"}:
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"  # noqa: PLR2004 - what four digits hold
