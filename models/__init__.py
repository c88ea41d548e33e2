"""Small real models, trained on scikit-learn's digits, and the images to test them with.

With them everything in the project can be tried without a download and without torch. ``build.py`` trains and exports
the models anew; ``README.md`` describes each file and the accuracy of each model.
"""

from __future__ import annotations

from pathlib import Path

from onnx_gconv.errors import ConfigError

__all__ = ["model_names", "model_path"]

_FOLDER = Path(__file__).resolve().parent
_SUFFIXES = frozenset({".onnx", ".npz"})


def model_names() -> tuple[str, ...]:
    """Names of the data files that stand in this folder.

    Returns:
        File names of the models and of the test data, sorted.
    """
    return tuple(sorted(path.name for path in _FOLDER.iterdir() if path.suffix in _SUFFIXES))


def model_path(name: str) -> Path:
    """Path of one data file of this folder.

    Args:
        name: File name, such as ``"digits_cnn.onnx"`` or ``"digits_test.npz"``.

    Returns:
        The absolute path of the file, which exists.

    Raises:
        ConfigError: There is no data file of that name; the message lists those there are.
    """
    names = model_names()
    if name not in names:
        raise ConfigError(f"There is no model file {name!r}; available: {', '.join(names) or 'none'}.")
    return _FOLDER / name
