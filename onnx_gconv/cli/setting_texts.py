"""The help of options that are settings of the configuration: the settings' descriptions and defaults.

The texts are the docstrings in the source of the settings. They are parsed from the source instead of being taken from
the pydantic models, which take seconds to import.
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
    """The description of a setting.

    Attributes:
        sentence: What the setting is.
        default: The default if it is a text, number or boolean; else None.
    """

    sentence: str
    default: str | bool | int | None = None


@dataclass(frozen=True)
class FromSetting:
    """Marks an option whose help is the description of a setting.

    Attributes:
        setting: The class and the field of the setting, such as ``ModelSettings.quantized``.
        more: A text to append to the description.
        choices: Returns the possible values to list in the help; None to list none.
    """

    setting: str
    more: str = ""
    choices: Callable[[], Iterable[str]] | None = None

    def help(self, option: TyperOption) -> str:
        """The help: the description of the setting, and its default unless the description contains it already.

        The default of a boolean setting is given as the option that sets it, such as ``--no-inline``.
        """
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
    """A command that looks up the texts of `FromSetting` only when its help is shown, because that takes time.

    Attributes:
        flags: The class whose fields are options of the command.
    """

    flags: type = object

    def format_help(self, ctx: Any, formatter: Any) -> None:  # noqa: ANN401 - of click, or of the copy of it in typer
        """Write the help, with the texts of the settings."""
        hints = get_type_hints(self.flags, include_extras=True)
        for option in self.params:
            for note in getattr(hints.get(option.name or ""), "__metadata__", ()):
                if isinstance(note, FromSetting) and isinstance(option, TyperOption):
                    option.help = note.help(option)
        super().format_help(ctx, formatter)


@cache
def setting_texts() -> dict[str, SettingText]:
    """The descriptions of all settings, by class and field, such as ``ModelSettings.quantized``."""
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
