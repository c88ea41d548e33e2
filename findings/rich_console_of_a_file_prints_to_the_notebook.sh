#!/usr/bin/env bash
# Guess: rich.console.Console(file=file).print(...) writes to the file, wherever it runs, so that a report's __str__ can be
# made of it. Seen: in a Jupyter kernel, rich 15.0.0 leaves the file empty and shows the text as the cell's output, so that
# print(report) shows a table by accident and str(report) is empty. With force_jupyter=False it writes to the file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip --quiet --disable-pip-version-check install \
    rich==15.0.0 nbclient==0.11.0 nbformat==5.11.1 ipykernel==7.4.0 2>/dev/null
cd "$folder"
IPYTHONDIR="$folder" "$folder/venv/bin/python" -W ignore - 2>/dev/null <<'PYTHON'
import ast
from importlib.metadata import version

import nbclient
import nbformat

cell = nbformat.v4.new_code_cell(
    """
import io
import rich.console

files = {"default": io.StringIO(), "force_jupyter=False": io.StringIO()}
rich.console.Console(file=files["default"]).print("hello")
rich.console.Console(file=files["force_jupyter=False"], force_jupyter=False).print("hello")
{name: file.getvalue() for name, file in files.items()}
"""
)
notebook = nbformat.v4.new_notebook(cells=[cell])
nbclient.NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
displayed, result = notebook.cells[0].outputs
print(f"rich {version('rich')}, ipykernel {version('ipykernel')}")
print(f"the cell shows: {displayed.data['text/plain']!r}")
print(f"the files hold: {result.data['text/plain']}")
found = ast.literal_eval(result.data["text/plain"])
assert found == {"default": "", "force_jupyter=False": "hello\n"}, "it behaves otherwise now"
PYTHON
