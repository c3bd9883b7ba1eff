"""What other people's exceptions say, fit for messages of ours."""

import re

_LONGEST = 300
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:'\"]+)+[\\/]")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line and without folders of this machine."""
    line = next(iter(str(error).strip().splitlines()), "")
    line = _FOLDERS.sub("", line)
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def said(error: BaseException) -> str:
    """An exception's type and first line, as a sentence."""
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ").rstrip(".") + "."
