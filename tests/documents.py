"""What stands in the documents of this repository: fenced blocks, commands, names in backquotes, headings and links."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_FOLDERS = ("benchmarks", "devices", "docs", "examples", "export", "hwnas", "latency_tables", "tests")  # others may be somebody's exports
#: Every document: whoever writes one has it tested.
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(path for folder in _FOLDERS for path in (ROOT / folder).rglob("*.md"))])

#: What a fenced block may be: `sh` and `console` are run, `python` too, `toml` is read; `text` is for people: drawings, formulae, messages.
LANGUAGES = {"console", "python", "sh", "text", "toml"}

#: Programs whose commands are looked for in backquotes.
PROGRAMS = ("hwnas", "make", "pip", "pre-commit", "python", "sh")

_FENCE = re.compile(r"^ {0,3}```(\S*)\n(.*?)^ {0,3}```$", re.DOTALL | re.MULTILINE)
_INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_PRINTED = re.compile(r"\n+^ {0,3}```text\n(.*?)^ {0,3}```$", re.DOTALL | re.MULTILINE)
_FILE = re.compile(r"`([\w.]+\.(?:py|toml))`[^`]*:\s*\Z")
_LINK = re.compile(r"\]\(((?!\w+:)[^)\s]+)\)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block. `file` is the file that the text before it says it is, as in "`my_space.py`:"; `printed` is the `text` block right after
    a `python` one: what that prints."""

    language: str
    text: str
    line: int
    file: str | None
    printed: str | None

    @property
    def commands(self) -> list[tuple[str, str]]:
        """(command, what it prints as shown) of a `sh` or `console` block; comments are left out, continued lines joined."""
        found: list[tuple[str, str]] = []
        for line in self.text.replace("\\\n", " ").splitlines():
            prompt = "$ " if self.language == "console" else ""
            if line.startswith(prompt) and shlex.split(line, comments=True):
                found.append((without_comment(line.removeprefix(prompt)), ""))
            elif self.language == "console" and found:
                found[-1] = (found[-1][0], f"{found[-1][1]}{line}\n")
        return found


def without_comment(line: str) -> str:
    """A command line up to its comment."""
    return re.sub(r"\s+#.*", "", line).strip()


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def blocks(path: Path) -> list[Block]:
    """The fenced blocks of a document, in order."""
    text, found = path.read_text(), []
    for match in _FENCE.finditer(text):
        before, after = _FILE.search(text, 0, match.start()), _PRINTED.match(text, match.end()) if match[1] == "python" else None
        found.append(Block(match[1], match[2], text.count("\n", 0, match.start()) + 1, before and before[1], after and after[1]))
    return found


def prose(path: Path) -> str:
    """A document without its fenced blocks."""
    return _FENCE.sub("", path.read_text())


def inline(path: Path) -> list[str]:
    """What stands in backquotes in the prose, on one line each; `\\|` is how a table writes `|`."""
    return [" ".join(match[1].split()).replace("\\|", "|") for match in _INLINE.finditer(prose(path))]


def inline_commands(path: Path) -> list[str]:
    """Commands in backquotes, each once and without what they set in the environment; `a|b` is two commands, one of each."""
    found: list[str] = []
    for text in inline(path):
        words = re.sub(r"^([A-Z_]+=\S+ )+", "", text).split(" ")
        if words[0] in PROGRAMS:
            choice = next((word for word in words if re.fullmatch(r"\w+(\|\w+)+", word)), "")
            found += [" ".join(each if word == choice else word for word in words) for each in (choice.split("|") if choice else [""])]
    return list(dict.fromkeys(found))


def links(path: Path) -> list[str]:
    """Targets of links that stay in this repository, with their anchors."""
    return _LINK.findall(_INLINE.sub("", prose(path)))


def anchors(path: Path) -> set[str]:
    """What a link to a part of a document may end with: its headings as GitHub writes them."""
    found: dict[str, int] = {}
    for heading in re.findall(r"^#{1,6} +(.+?) *#*$", prose(path), re.MULTILINE):
        text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
        slug = re.sub(r"[^\w\- ]", "", text.lower()).replace(" ", "-")
        found[f"{slug}-{found[slug]}" if slug in found else slug] = 0
        found[slug] += 1
    return set(found)
