"""Reads the code blocks and links of documentation pages, and runs the examples of a page as a reader would."""

from __future__ import annotations

import re
import runpy
import shlex
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# Programs that pages mention but tests do not run, such as installers. All other commands are run.
OTHER_PROGRAMS = {"cd", "conda", "dask", "docker", "git", "make", "mkdocs", "netron", "olive", "pip"}

_FENCE = re.compile(
    r'^```(?P<language>\w*)(?: title="(?P<title>[^"]+)")?\n(?P<text>.*?)^```$', re.MULTILINE | re.DOTALL
)
_INDENTED = re.compile(r"^    (?:onnx-gconv|python) (?:.*\\\n)*.*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A fenced code block or an indented command of a page.

    Attributes:
        language: The language of a fenced block; ``console`` for an indented command.
        text: The content of the block.
        title: The name of the file that the block shows; None if the page names none.
        follows: Whether there is no text between the block and the one before.
    """

    language: str
    text: str
    title: str | None = None
    follows: bool = False


def pages() -> list[str]:
    """The paths of all Markdown pages for readers, relative to the folder of the project."""
    folders = (ROOT / name for name in ("docs", "examples", "models", "benchmarks"))
    found = [ROOT / "README.md", ROOT / "CHANGELOG.md", *(page for folder in folders for page in folder.rglob("*.md"))]
    return sorted(str(page.relative_to(ROOT)) for page in found)


def with_pages_below(front: str) -> list[str]:
    """A front page, such as ``docs/format.md``, and the pages of the folder beside it, in the order of their names."""
    return [front, *(page for page in pages() if page.startswith(f"{front.removesuffix('.md')}/"))]


def text_of(*names: str) -> str:
    """The text of pages, one after the other."""
    return "\n".join((ROOT / name).read_text(encoding="utf-8") for name in names)


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    found = [
        (match.start(), match.end(), Block(match["language"], match["text"], match["title"]))
        for match in _FENCE.finditer(text)
    ]
    fenced = [range(start, end) for start, end, _ in found]
    for match in _INDENTED.finditer(text):
        if not any(match.start() in each for each in fenced):
            command = re.sub(r"^    ", "", match[0], flags=re.MULTILINE)
            found.append((match.start(), match.end(), Block("console", f"$ {command}\n")))
    found.sort(key=lambda each: each[0])
    ordered: list[Block] = []
    last_end = 0
    for start, end, block in found:
        follows = bool(ordered) and not text[last_end:start].strip()
        ordered.append(Block(block.language, block.text, block.title, follows))
        last_end = end
    return ordered


def headings(page: str) -> list[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    plain = (re.sub(r"[`*]|\]\([^)]*\)|\[", "", line) for line in re.findall(r"^#+ (.*)$", text, re.MULTILINE))
    return [re.sub(r"[\s]", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in plain]


def links(page: str) -> Iterator[tuple[str, str]]:
    """The file and the anchor of each link of a page to another place in the project; either may be empty."""
    text = _FENCE.sub("", (ROOT / page).read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        yield file, anchor


def commands(block: Block) -> Iterator[tuple[list[str], int, str]]:
    """The commands of a console, each with its exit code and the output that the page shows."""
    for part in re.split(r"^\$ ", block.text, flags=re.MULTILINE)[1:]:
        line = re.match(r"(?:.*\\\n)*.*", part)[0]
        shown = part[len(line) :]
        code = re.search(r"# exit code (\d)", line)
        yield shlex.split(line.replace("\\\n", ""), comments=True), int(code[1]) if code else 0, shown


def assert_shown(shown: str, printed: str, page: str) -> None:
    """Assert that the output holds the lines that a page shows, in the same order; ``...`` stands for any lines."""
    lines = iter(" ".join(line.split()) for line in printed.splitlines())
    for line in (" ".join(line.split()) for line in shown.splitlines()):
        if line and line != "...":
            assert line in lines, f"{page}: was not printed: {line}\nprinted:\n{printed}"


@dataclass
class Reader:
    """Runs the examples of a page.

    Attributes:
        page: The page.
        run: Runs onnx-gconv with arguments, and returns the exit code.
        printed: Returns the output since the last call.
    """

    page: str
    run: Callable[[list[str]], int]
    printed: Callable[[], str]

    def follow(self) -> dict[str, object]:
        """Run all examples in the current folder, and return the names that Python code of the page has defined."""
        namespace: dict[str, object] = {"__name__": "page"}
        printed = ""
        for block in blocks(self.page):
            if block.language == "python" and block.title is None:
                self.printed()
                exec(compile(block.text, self.page, "exec"), namespace)  # noqa: S102 - that is the test
                printed = self.printed()
            elif block.language == "console":
                self._type(block)
            elif block.language == "text" and block.follows:
                assert_shown(block.text, printed, self.page)
            if block.language == "toml":
                tomllib.loads(block.text)
            if block.title is not None:
                Path(block.title).write_text(block.text, encoding="utf-8")
        return namespace

    def _type(self, block: Block) -> None:
        for (program, *arguments), code, shown in commands(block):
            if program in OTHER_PROGRAMS:
                continue
            self.printed()
            if program == "python":
                [script] = arguments
                runpy.run_path(script, run_name="__main__")
                assert_shown(shown, self.printed(), self.page)
                continue
            assert program == "onnx-gconv", f"{self.page}: what is {program}?"
            found = self.run(arguments)
            printed = self.printed()
            assert found == code, f"{self.page}: {shlex.join(arguments)} returned {found}:\n{printed}"
            assert_shown(shown, printed, self.page)
