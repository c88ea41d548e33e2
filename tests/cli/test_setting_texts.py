"""The help of options that are settings is what the settings say of themselves, and the help of all can be read."""

from __future__ import annotations

import re
from typing import Literal, get_args, get_origin, get_type_hints

import onnx_ir as ir
import pytest
import typer

from onnx_gconv.cli.app import app
from onnx_gconv.cli.mapping_flags import MappingFlags, option_names
from onnx_gconv.cli.setting_texts import FromSetting, setting_texts
from onnx_gconv.configuration import settings
from onnx_gconv.configuration.settings import ModelSettings
from onnx_gconv.converters.registry import CONVERTER_KINDS

FLAGS = get_type_hints(MappingFlags, include_extras=True)
OF_SETTINGS = {
    name: note.setting for name, hint in FLAGS.items() for note in hint.__metadata__ if isinstance(note, FromSetting)
}
OWN_WORDS = {"config", "converter_option", "level_codes"}


def field_of(setting):
    model, _, field = setting.partition(".")
    return getattr(settings, model).model_fields[field]


def test_the_texts_are_those_of_the_models():
    for setting in OF_SETTINGS.values():
        field, text = field_of(setting), setting_texts()[setting]
        assert text.sentence == " ".join(field.description.split())
        if text.default is not None:
            assert text.default == field.default


def test_every_option_but_those_listed_is_a_setting():
    assert FLAGS.keys() - OF_SETTINGS.keys() == OWN_WORDS


def test_every_setting_of_the_model_is_an_option():
    for name in ModelSettings.model_fields:
        assert OF_SETTINGS[name] == f"ModelSettings.{name}"


def test_what_may_be_chosen_is_what_the_settings_check():
    for name, setting in OF_SETTINGS.items():
        choices = [part for part in get_args(get_type_hints(MappingFlags)[name]) if get_origin(part) is Literal]
        if choices:
            annotation = field_of(setting).annotation
            of_setting = [part for part in (annotation, *get_args(annotation)) if get_origin(part) is Literal]
            assert choices == of_setting, name


@pytest.fixture
def help_of_map(gconv, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    return " ".join(gconv("map", "--help").stdout.split())


def test_the_help_has_the_sentences_and_the_defaults(help_of_map):
    for name, setting in OF_SETTINGS.items():
        sentence = setting_texts()[setting].sentence.replace('"', "").removesuffix(" Default: false.")
        for part in sentence.removesuffix(".").split(". Default: "):  # choices stand between them
            assert part in help_of_map, name
        assert option_names()[name] in help_of_map
    for default in ("--no-freeze-inputs", "--inline", "--no-upgrade-opset", "map", "rebuild", "float32", "tensor"):
        assert f"Default: {default}." in help_of_map
    assert "Default: tile" not in help_of_map
    assert ", ".join(CONVERTER_KINDS) in help_of_map


# --converter-option


@pytest.mark.parametrize(
    ("options", "parameters"),
    [
        (["--converter-option", "exact=true"], {"exact": True}),
        (["--converter", "n-pair", "--converter-option", "factors=[1, 3]"], {"f_lst": [1.0, 3.0]}),
        (
            ["--converter", "bit-sliced-pair", "--bits", "6", "--converter-option", "slice_bits = 3"],
            {"bits": 6, "slice_bits": 3},
        ),
        (
            [
                *("--converter", "custom-pair", "--factor", "1"),
                *("--converter-option", "table=[[0, 5, 10], [10, 5, 0]]", "--g-max", "10"),
            ],
            {"g_lst": [[0.0, 5.0, 10.0], [10.0, 5.0, 0.0]]},
        ),
    ],
)  # fmt: skip
def test_settings_may_be_given_with_values_as_in_toml(gconv, parse, normal, tmp_path, options, parameters):
    model = model_file(parse, normal, tmp_path)
    [weight] = gconv("inspect", model, *options, "--json").json["mapped"]
    assert weight["converter_parameters"].items() >= parameters.items()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["exact"], "--converter-option is KEY=VALUE, such as midpoint=5.0, but not 'exact'"),
        (["=1"], "--converter-option is KEY=VALUE, such as midpoint=5.0, but not '=1'"),
        (["exact=true", "exact=false"], "--converter-option gives exact twice; leave one of them out"),
        (
            ["exact=1\nb=2"],
            "--converter-option: the value of exact should be in TOML syntax, such as 5.0, true, [1, 3] or",
        ),
        (
            ["exact="],
            "--converter-option: the value of exact should be in TOML syntax, such as 5.0, true, [1, 3] or a word",
        ),
        (["exact=yes"], "--converter-option exact: should be true or false, but it is 'yes'"),
        (["facters=[1]"], "--converter-option: the converter single-pair has no setting 'facters'; there is exact"),
    ],
)
def test_what_is_wrong_with_a_setting_is_one_line(gconv, parse, normal, tmp_path, options, message):
    found = gconv("map", model_file(parse, normal, tmp_path), *(f"--converter-option={option}" for option in options))
    assert (found.code, found.stdout) == (2, "")
    assert found.stderr.startswith(f"onnx-gconv: {message}")
    assert len(found.stderr.splitlines()) == 1


def test_a_setting_is_given_once(gconv, parse, normal, tmp_path):
    found = gconv("map", model_file(parse, normal, tmp_path), "--exact", "--converter-option", "exact=true")
    assert found.stderr == "onnx-gconv: --exact and --converter-option both give exact; leave one of them out\n"


def model_file(parse, normal, folder):
    ir.save(parse("g (float[2,3] x) => (float[2,4] y) { y = MatMul(x, W) }", W=normal(3, 4)), folder / "in.onnx")
    return folder / "in.onnx"


# onnx-gconv converters


def test_all_converters_are_listed_with_their_settings(gconv):
    found = gconv("converters")
    assert (found.code, found.stderr) == (0, "")
    for kind in CONVERTER_KINDS.values():
        assert kind.name in found.stdout
        for setting in kind.settings.values():
            assert str(setting) in found.stdout
    document = gconv("converters", "--json").json
    assert [each["name"] for each in document["converters"]] == list(CONVERTER_KINDS)
    assert document["problems"] == []


# The help of all commands


def commands():
    """The words of each command, those of `config` too."""
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        subcommands = getattr(command, "commands", {})
        yield from ([name, other] for other in subcommands)
        if not subcommands:
            yield [name]


@pytest.mark.parametrize("words", [[], *commands()], ids=" ".join)
def test_the_help_has_whole_names_in_a_terminal_of_80_columns(gconv, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    found = gconv(*words, "--help")
    assert (found.code, found.stderr) == (0, "")
    assert "\u2026" not in found.stdout  # a name that is cut off
    assert "<bool>" not in found.stdout
    command = typer.main.get_command(app)
    for word in words:
        command = command.commands[word]
    names = [name for option in command.params for name in (*option.opts, *option.secondary_opts) if name[:2] == "--"]
    assert len(names) >= (1 if not words else 3)
    for name in names:
        assert re.search(rf"{name}(?![\w-])", found.stdout), name
