"""The group of commands of the command line, and how their flags stand in the help."""

from __future__ import annotations

from typing import Any

from typer.core import TyperGroup, TyperOption

__all__ = ["CommandGroup"]


class CommandGroup(TyperGroup):
    """Commands whose flags have no type in the help: <bool> says nothing, and takes the room of names and texts."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ANN401 - of click, or of the copy of it in typer
        """Return a command by its name; None if there is none."""
        command = super().get_command(ctx, cmd_name)
        if command is not None and not isinstance(command, CommandGroup):
            _without_types(command.get_params(ctx))
        return command

    def get_params(self, ctx: Any) -> Any:  # noqa: ANN401 - as above
        """Return the options of the group itself, such as --version."""
        found = super().get_params(ctx)
        _without_types(found)
        return found


def _without_types(options: Any) -> None:  # noqa: ANN401 - as above
    for option in options:
        if isinstance(option, TyperOption) and option.is_flag and option.metavar is None:
            option.metavar = ""
