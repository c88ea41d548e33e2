"""Messages name options of the command that says them, or say which command has them."""

from __future__ import annotations

import re
from functools import cache

import pytest
import typer

from onnx_gconv.cli.app import app
from onnx_gconv.cli.mapping_flags import MappingFlags
from tests.reachable_code import Place, definitions, reached_from

NAMED = re.compile(r"(?<![\w-])--[a-z][a-z_-]*")

# Options of pip, Dask and NeuroSim, and of the script that is written for ZigZag.
OF_OTHER_PROGRAMS = {"--upgrade", "--nworkers", "--memory-limit", "--mem_states_file", "--lpf-limit"}

# Parts of messages, and what stands before them.
SAID_AFTER = {
    ("onnx_gconv.cli.commands.demo", "_print_steps"): "onnx-gconv program",
    ("onnx_gconv.passes.remarks", "_FINER_SCALES"): "map with",
    ("onnx_gconv.passes.remarks", "_remedy_of_loss"): "map with",
    ("onnx_gconv.simulation.chips.chip_weight", "_OPTIONS"): "map with",
}

# The search for a bundle that was not given; `targets` is always given one.
NOT_SAID_BY = {("onnx_gconv.handoff.measured.measurements", "_bundle_of"): "targets"}


def _commands():
    found, waiting = {}, [("", typer.main.get_command(app))]
    while waiting:
        name, command = waiting.pop()
        if (inner := getattr(command, "commands", None)) is None:
            found[name] = command
        else:
            waiting += [(f"{name} {each}".strip(), other) for each, other in inner.items()]
    return found


COMMANDS = _commands()
OPTIONS = {
    name: {"--help", *(option for each in command.params for option in (*each.opts, *each.secondary_opts))}
    for name, command in COMMANDS.items()
}
FOR_MAPPING = {
    option: name
    for name in MappingFlags.__dataclass_fields__
    for each in COMMANDS["map"].params
    if each.name == name
    for option in (*each.opts, *each.secondary_opts)
}
WORDS_FOR = {name: re.compile(rf"\bonnx-gconv {name}\b|\b{name} $") for name in COMMANDS} | {
    "map": re.compile(r"\bmap(ped)?\b"),
    "handoff": re.compile(r"\bhand(ed)? off\b|\bhandoff\b"),
}


@cache
def said_by() -> dict[Place, set[str]]:
    """The commands that say the texts of a definition. The demo runs other commands on models of its own."""
    found: dict[Place, set[str]] = {}
    for name, command in COMMANDS.items():
        for place in reached_from((command.callback.__module__, command.callback.__name__)):
            found.setdefault(place, set()).add(name)
    for place, commands in found.items():
        if not place[0].endswith(".demo"):
            commands.discard("demo")
        commands.discard(NOT_SAID_BY.get(place, ""))
    return found | {place: set(COMMANDS) for place in definitions() if place[0] == "onnx_gconv.cli.app"}


def has_option(command: str, option: str, text: str) -> bool:
    """Whether a command has the option, or takes a file with the setting of that name, which the text names, too."""
    is_in_file = command.startswith("config ") and re.search(rf"\b{FOR_MAPPING.get(option, '-')} ?[=,]", text)
    return option in OPTIONS[command] or bool(is_in_file)


def wrong_options(place: Place, text: str):
    """The options that a text names as those of a command that does not have them, and these commands."""
    for match in NAMED.finditer(text):
        option, before = match[0], f"{SAID_AFTER.get(place, '')} {text[: match.start()]}"
        before = re.split(r"[;:.] ", before)[-1]
        if option in OF_OTHER_PROGRAMS or any(
            option in OPTIONS[name] and words.search(before) for name, words in WORDS_FOR.items()
        ):
            continue
        commands = said_by().get(place, set())
        if wrong := {name for name in commands if not has_option(name, option, text)} or not commands:
            yield option, wrong


def _messages():
    for place, definition in definitions().items():
        yield from ((place, line, text) for line, text in definition.texts if " " in text and NAMED.search(text))


def test_messages_name_options_that_the_reader_can_give():
    found = [
        f"{place[0]}, line {line}: {option} is no option of {wrong}: {text}"
        for place, line, text in _messages()
        for option, wrong in wrong_options(place, text)
    ]
    assert not found, "\n".join(found)


VERIFY = ("onnx_gconv.verification.verify", "_amplified")
CHECKED = ("onnx_gconv.configuration.resolve", "_check_storage")


@pytest.mark.parametrize(
    ("place", "text", "wrong"),
    [
        (VERIFY, "weights differ; --exact helps", [("--exact", {"verify", "readback"})]),
        (VERIFY, "the model is mapped; --exact helps", [("--exact", {"verify", "readback"})]),
        (VERIFY, "weights differ; map with --exact", []),
        (VERIFY, "give other inputs with --inputs", []),
        (VERIFY, "give other samples with --samples", [("--samples", {"verify", "readback"})]),
        (VERIFY, "the bundle that onnx-gconv handoff --bias-rows writes", []),
        (VERIFY, "the bundle that onnx-gconv map --bias-rows writes", [("--bias-rows", {"verify", "readback"})]),
        (CHECKED, "codes need levels: --levels", [("--levels", {"config init", "config check"})]),
        (CHECKED, "codes need levels (levels, --levels)", []),
        (("onnx_gconv.verification.verify", "_no_such_function"), "say --inputs", [("--inputs", True)]),
    ],
)
def test_options_of_other_commands_are_found(place, text, wrong):
    assert list(wrong_options(place, text)) == wrong


def test_commands_that_messages_name_exist():
    known = {name.partition(" ")[0] for name in COMMANDS}
    named = {
        command
        for definition in definitions().values()
        for _, text in definition.texts
        for command in re.findall(r"\bonnx-gconv ([a-z][a-z-]*)\b", text)
    }
    assert {"map", "inspect", "presets", "readback", "config"} <= named
    assert named - {"maps"} <= known  # a verb
