"""Packages with converters, put where Python finds them."""

from __future__ import annotations

import shutil
import tomllib
from pathlib import Path

__all__ = ["PACKAGE", "install"]

PACKAGE = Path(__file__).parent / "converters" / "own_package"


def install(site, folder=PACKAGE, points=None, **changes):
    """Put a package where Python finds it, with what pip would write of it."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"] | changes
    group = points or project["entry-points"]["onnx_gconv.converters"]
    site.mkdir(exist_ok=True)
    for module in folder.glob("*.py"):
        shutil.copy(module, site)
    about = site / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    lines = (f"{name} = {value}\n" for name, value in group.items())
    (about / "entry_points.txt").write_text("[onnx_gconv.converters]\n" + "".join(lines))
    return site
