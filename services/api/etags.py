"""Entity tags: what a client has seen, so that it changes nothing else."""

import hashlib
import re
from typing import Annotated

from fastapi import Header

IfMatch = Annotated[str | None, Header(max_length=1000, description="An ETag of what is to be changed, or *; else 412.")]
IfNoneMatch = Annotated[str | None, Header(max_length=1000, description="An ETag that needs no answer; then 304.")]

ANY = "*"
"""Stands for whatever there is."""


def digest(content: bytes) -> str:
    """What tells contents apart in a tag."""
    return hashlib.sha256(content).hexdigest()[:24]


def tags(header: str, *, weak: bool = True) -> list[str]:
    """The entity tags of a header, without the mark of weak ones, which only some comparisons take."""
    found = re.findall(r'(W/)?("[^"]*")', header)
    return [tag for mark, tag in found if weak or not mark]


def matches(if_match: str, beginning: str) -> bool:
    """Whether If-Match holds a strong tag that begins so: what follows may have changed, as nobody changes it."""
    return if_match.strip() == ANY or any(tag.startswith(beginning) for tag in tags(if_match, weak=False))
