"""Who is to blame: the smallest sets of suspects that fail a test, found by halving."""

from collections.abc import Callable, Iterator, Sequence

Test = Callable[[Sequence[str]], str | None]
"""Says why these suspects fail together, or None where they pass."""


def culprits(test: Test, suspects: Sequence[str], reason: str) -> Iterator[tuple[tuple[str, ...], str]]:
    """Minimal failing sets, each with what the test says of it; a single one of k suspects takes O(log k) tests.

    Sets that fail only across the halves of one that is reported already are not looked for: test again without it.

    Args:
        test: Asked about parts of ``suspects`` only.
        suspects: They fail together.
        reason: What the test said of all of them.
    """
    if len(suspects) == 1:
        yield tuple(suspects), reason
        return
    found = False
    for half in _halves(suspects):
        if said := test(half):
            found = True
            yield from culprits(test, half, said)
    if not found:
        minimal = tuple(_minimal(test, (), False, suspects))
        said = test(minimal)
        yield (minimal, said) if said else (tuple(suspects), reason)


def _minimal(test: Test, given: Sequence[str], grown: bool, suspects: Sequence[str]) -> Sequence[str]:
    """The fewest of ``suspects`` that fail together with ``given`` (QuickXplain, Junker 2004)."""
    if grown and test(given):
        return ()
    if len(suspects) == 1:
        return suspects
    first, second = _halves(suspects)
    of_second = _minimal(test, (*given, *first), True, second)
    of_first = _minimal(test, (*given, *of_second), bool(of_second), first)
    return (*of_first, *of_second)


def _halves(names: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    middle = len(names) // 2
    return names[:middle], names[middle:]
