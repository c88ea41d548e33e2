"""What the help says of options that are settings: the sentences of the settings, and their defaults.

They are read from the source of the settings, as pydantic does, and not from the models: these take seconds to import.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, get_type_hints

from typer.core import TyperCommand, TyperOption

__all__ = ["FromSetting", "MappingCommand", "SettingText", "setting_texts"]

_SOURCES = ("setting_tables.py", "settings.py")


@dataclass(frozen=True)
class SettingText:
    """What the source says of a setting.

    Attributes:
        sentence: What it is.
        default: Its default, if that is a literal that can be given; else None.
    """

    sentence: str
    default: str | bool | int | None = None


@dataclass(frozen=True)
class FromSetting:
    """That the help of an option is the sentence of a setting.

    Attributes:
        setting: The class and the field, such as ``ModelSettings.quantized``.
        more: What the help says besides.
        choices: Gives what may be chosen, where that is to be listed.
    """

    setting: str
    more: str = ""
    choices: Callable[[], Iterable[str]] | None = None

    def help(self, option: TyperOption) -> str:
        """The sentence of the setting, and its default in the words of the option, unless one is told already."""
        text = setting_texts()[self.setting]
        sentence = text.sentence.replace('"', "").removesuffix(" Default: false.")
        if self.choices is not None:
            sentence, mark, default_of_setting = sentence.partition(" Default: ")
            sentence = f"{sentence.removesuffix('.')}: {', '.join(self.choices())}.{mark}{default_of_setting}"
        told = " ".join(filter(None, (sentence, self.more)))
        default = text.default
        if isinstance(default, bool):
            default = option.opts[0] if default else option.secondary_opts[0]
        return told if default is None or "Default: " in told else f"{told} Default: {default}."


class MappingCommand(TyperCommand):
    """A command whose help is completed when it is shown, so that nobody else waits for that.

    Attributes:
        flags: The class whose fields are options of the command.
    """

    flags: type = object

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - of click, or of the copy of it in typer
        """Write the help."""
        hints = get_type_hints(self.flags, include_extras=True)
        for option in self.params:
            for note in getattr(hints.get(option.name or ""), "__metadata__", ()):
                if isinstance(note, FromSetting) and isinstance(option, TyperOption):
                    option.help = note.help(option)
        super().format_help(ctx, formatter)


@cache
def setting_texts() -> dict[str, SettingText]:
    """The texts of all settings, by class and field."""
    folder = Path(__file__).parents[1] / "configuration"
    found: dict[str, SettingText] = {}
    for source in _SOURCES:
        for node in ast.parse((folder / source).read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                found |= {f"{node.name}.{name}": text for name, text in _texts_of(node)}
    return found


def _texts_of(settings: ast.ClassDef) -> list[tuple[str, SettingText]]:
    found = []
    for field, text in zip(settings.body, settings.body[1:], strict=False):
        match field, text:
            case (
                ast.AnnAssign(target=ast.Name(id=name), value=value),
                ast.Expr(value=ast.Constant(value=str(sentence))),
            ):
                literal = value.value if isinstance(value, ast.Constant) else None
                default = literal if isinstance(literal, (str, int)) else None
                found.append((name, SettingText(" ".join(sentence.split()), default)))
    return found
