"""The base class of formats of other tools, and what formats get and return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol

from onnx_gconv.crossbars.layers import Layer
from onnx_gconv.files.arrays import ArrayWriter
from onnx_gconv.handoff.formats.receiver_settings import ReceiverSettings
from onnx_gconv.handoff.formats.sample import Sample
from onnx_gconv.handoff.manifest import FileRecord
from onnx_gconv.visible_text import listed

__all__ = ["ArrayFolder", "HandoffFormat", "LayerNote", "Preparation"]

_MOST_NAMED = 4


class ArrayFolder(ArrayWriter, Protocol):
    """The folder of a format that writes each array of the bundle to a file while the bundle is written."""

    @property
    def files(self) -> Sequence[FileRecord]:
        """The manifest's records of the files; complete once all arrays are written."""
        ...


@dataclass(frozen=True)
class LayerNote:
    """A note on some layers for readers of the format.

    Attributes:
        text: The note.
        layers: The layers that it holds for. A note without layers is not shown.
    """

    text: str
    layers: Sequence[Layer]

    def __str__(self) -> str:
        return f"{self.text}: {listed([layer.id for layer in self.layers], _MOST_NAMED)}"


@dataclass(frozen=True, eq=False)
class Preparation:
    """What a format may need besides the layers.

    Attributes:
        name: Name of the model.
        model: The file of the mapped model.
        layers: The layers of the model.
        sample: What a run of the model on one sample has shown; None if no format of the bundle needs a run.
        settings: Bits of weights and activations, and of converters (DAC and ADC).
    """

    name: str
    model: Path
    layers: Sequence[Layer]
    sample: Sample | None
    settings: ReceiverSettings

    @property
    def run(self) -> Sample:
        """The run of the model, for formats with `needs_sample`."""
        assert self.sample is not None  # noqa: S101 - the model is run if any format needs it
        return self.sample


class HandoffFormat:
    """A format of other tools, written to a folder of the bundle that has the format's name.

    A format gets the conductances in one of two ways, and overrides one of two methods: `write` reads whole matrices
    from the layers, and `array_folder` receives each array of the bundle while the bundle is written. A README.txt is
    written beside the files of each format.

    Attributes:
        name: Name of the format for users, and of its folder.
        description: What the format is for, in a few words.
        content: What the files are and how to use them, for README.txt; ends in a line feed.
        remarks: What the format leaves out or rounds in every model, and what readers have to know; a line each.
        holds_tiles: Whether matrices are cut into the tiles of the bundle. If not, each matrix is whole, in a file or
            line of its own.
        holds_biases: Whether the files include biases that are added digitally.
        holds_bias_rows: Whether the files include the rows of tiles that hold a bias.
        holds_codes: Whether the files include the codes of levels beside their conductances.
        is_for_costs: Whether the format describes layers and arrays to a tool that estimates energy, time and area. All
            other formats give conductances to a tool that computes with them.
        needs_sample: Whether the format needs activations of the layers or their shapes, so that the model has to run
            on a sample.
        settings: Names of the `ReceiverSettings` that the format uses.
    """

    name: ClassVar[str]
    description: ClassVar[str]
    content: ClassVar[str]
    remarks: ClassVar[tuple[str, ...]]
    holds_tiles: ClassVar[bool] = False
    holds_biases: ClassVar[bool] = False
    holds_bias_rows: ClassVar[bool] = False
    holds_codes: ClassVar[bool] = False
    is_for_costs: ClassVar[bool] = False
    needs_sample: ClassVar[bool] = False
    settings: ClassVar[tuple[str, ...]] = ()

    def prepared(self, preparation: Preparation) -> HandoffFormat:
        """The format, completed with what it needs besides the layers. By default a format needs nothing."""
        return self

    def held(self, layers: Sequence[Layer]) -> Sequence[Layer]:
        """The layers that are written, in the order of their files. By default these are all.

        A format that leaves out layers gives the reasons in `notes`.
        """
        return layers

    def readme_content(self) -> str:
        """The first part of README.txt."""
        return self.content

    def check(self, layers: Sequence[Layer]) -> None:
        """Check, before anything is written, that the format can hold the layers. By default it can.

        Raises:
            ConfigError: For the first layer that the format cannot hold.
        """

    def notes(self, layers: Sequence[Layer]) -> Sequence[LayerNote]:
        """Notes on single layers, besides those that follow from the attributes ``holds_...``."""
        return ()

    def array_folder(self, folder: Path) -> ArrayFolder | None:
        """The writer of the bundle's arrays, a context manager; None if the format uses `write` instead.

        Args:
            folder: The new bundle.
        """
        return None

    def cells(self, layers: Sequence[Layer]) -> int:
        """Number of conductances that `write` handles, over all devices; the total for progress."""
        return 0

    def write(
        self,
        layers: Sequence[Layer],
        folder: Path,
        advance: Callable[[int], None],
    ) -> Iterable[FileRecord]:
        """Write the files that are made from the layers themselves.

        Args:
            layers: The layers, which `check` has accepted.
            folder: The new bundle.
            advance: Called with the number of conductances that were handled since the last call.

        Returns:
            The manifest's records of the files.

        Raises:
            ModelError: If the conductances do not fit the format, or external data cannot be read.
            OSError: If a file cannot be written.
        """
        return ()
