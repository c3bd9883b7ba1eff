"""API tokens: how they look, and what is kept of them.

``aps_``, 64 hexadecimal digits of 32 random bytes, and 8 of their CRC-32: a mistyped token is told from an unknown one
without asking anybody, and tools that look for leaked secrets can recognise it.
"""

import hashlib
import re
import secrets
import zlib

PREFIX = "aps_"
_FORM = re.compile(rf"{PREFIX}(?P<body>[0-9a-f]{{64}})(?P<check>[0-9a-f]{{8}})")


def new_token() -> str:
    """A new token; shown once and never stored."""
    body = secrets.token_hex(32)
    return PREFIX + body + _check(body)


def is_token(text: str) -> bool:
    """Whether the text could be a token: its form, and its checksum."""
    found = _FORM.fullmatch(text)
    return found is not None and found["check"] == _check(found["body"])


def digest(token: str) -> str:
    """What is stored instead of the token: its SHA-256.

    Salt and slowness would protect a secret that can be guessed; 256 random bits cannot.
    """
    return hashlib.sha256(token.encode()).hexdigest()


def hint(token: str) -> str:
    """The last four characters, to recognise a key in a list."""
    return token[-4:]


def _check(body: str) -> str:
    return f"{zlib.crc32((PREFIX + body).encode()):08x}"
