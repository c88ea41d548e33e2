"""The lines of the next changelog: each file has a kind that is known, and its text gets there."""

from __future__ import annotations

import re
import subprocess
import sys

from tests.docs.pages import ROOT

FOLDER = ROOT / "changelog.d"
KINDS = ("added", "changed", "removed", "fixed", "security")


def test_each_file_is_a_line_of_the_next_version():
    command = [sys.executable, "-m", "towncrier", "build", "--draft", "--version", "1.2.3", "--date", "2030-01-02"]
    draft = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, encoding="utf-8").stdout
    kinds = re.split(r"^### (.*)$", draft, flags=re.MULTILINE)
    assert draft.startswith("## [1.2.3] - 2030-01-02\n")
    parts = {name.lower(): " ".join(text.split()) for name, text in zip(kinds[1::2], kinds[2::2], strict=True)}
    files = [file for file in FOLDER.iterdir() if file.name != "README.md"]
    for file in files:
        kind = re.fullmatch(rf"\+[a-z0-9-]+\.({'|'.join(KINDS)})\.md", file.name)
        assert kind is not None, f"{file.name} is not named +NAME.KIND.md"
        text = file.read_text(encoding="utf-8")
        assert not text.startswith(("-", "*")), f"{file.name} begins with a dash, which is added"
        assert f"- {' '.join(text.split())}" in parts[kind[1]]
    assert set(parts) == {file.suffixes[-2].removeprefix(".") for file in files}
