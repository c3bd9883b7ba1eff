"""What other people's exceptions say, fit for messages of ours."""

import errno
import re

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_LONGEST = 300
_FOLDERS = re.compile(r"(?<![\w.])(?:[A-Za-z]:)?(?:[\\/][^\s\\/:'\"]+)+[\\/]")


def first_line(error: BaseException) -> str:
    """What an exception says, in one line and without folders of this machine."""
    line = without_folders(next(iter(str(error).strip().splitlines()), ""))
    return line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…"


def without_folders(text: str) -> str:
    """The same with the bare names of files where their paths were."""
    return _FOLDERS.sub("", text)


def said(error: BaseException) -> str:
    """An exception's type and first line, as a sentence."""
    return f"{type(error).__name__}: {first_line(error)}".rstrip(": ").rstrip(".") + "."


def is_storage_full(error: BaseException) -> bool:
    """Whether a file could not be written because there is no room for it: none on the disk, or none allowed."""
    return isinstance(error, OSError) and error.errno in _FULL
