"""What a document shows that a command prints, against what it prints."""

from __future__ import annotations

import re

#: Commands that measure or train: their figures differ from run to run, and from one machine to another. Everything else is compared to the letter.
VARYING = (
    *("accuracy build", "accuracy report", "compare", "device check", "doctor", "export", "profile", "report", "search"),
    *("specialize", "table check", "table show", "train", "verify"),
)

#: Parts of what those print that vary, and how they are written where two outputs are compared.
_VARIES = (
    (r"measured on .* \((?=localhost/)", "measured on … ("),
    (r"won against|did not win against", "won or not against"),
    (r" – the (baseline is better|interval includes 0|difference is unknown)(?=; )", ""),
    (r"[+−-]?(\d[\d,]*(\.\d+)?(e[+-]?\d+)?|nan)\b", "#"),
)


def varies(command: str) -> bool:
    return command.startswith(tuple(f"hwnas {each} " for each in VARYING))


def shape(text: str, *, varying: bool) -> str:
    """Text on one line, without what varies."""
    text = re.sub(r"\s+", " ", text)
    for pattern, instead in _VARIES if varying else ():
        text = re.sub(pattern, instead, text)
    return text.strip()


def assert_printed(shown: str, printed: str, *, varying: bool) -> None:
    """The lines shown are printed in this order; others may stand between them where what varies does, or where the document says `...`.

    A line that is too long for a terminal is one line here too.
    """
    rest, gap = shape(printed, varying=varying), varying
    for line in shown.splitlines():
        if line.strip() == "...":
            gap = True
        elif line := shape(line, varying=varying):
            found = rest.find(line)
            assert found == 0 or (gap and found > 0), f"this line of the document is not printed, or not at this place:\n{line}\nin\n{rest}"
            rest, gap = rest[found + len(line) :].lstrip(), varying
    assert gap or not rest, f"this is printed, and not in the document:\n{rest}"
