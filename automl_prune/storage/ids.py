"""Identifiers that sort by creation, so that an index on them pages newest first."""

import secrets
import threading
import time

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford's base 32: no i, l, o, u to misread
_lock = threading.Lock()
_last = 0


def new_search_id() -> str:
    """``srch_`` and 26 characters that sort by creation."""
    return new_id("srch_")


def new_id(prefix: str) -> str:
    """The prefix and 26 characters: 48 bits of Unix milliseconds, then 80 random bits.

    Within one process later identifiers sort after earlier ones, also inside a millisecond and when the clock steps back.
    """
    global _last
    with _lock:
        fresh = (time.time_ns() // 1_000_000) << 80 | secrets.randbits(80)
        # a random step, not 1: two processes forked in the same millisecond must not count through the same numbers
        _last = max(fresh, _last + 1 + secrets.randbits(32))
        value = _last
    return prefix + "".join(_ALPHABET[value >> shift & 31] for shift in range(125, -1, -5))
