"""How commands end: an exit code, and every expected failure as one sentence per faulty field on stderr.

0 done · 1 the search failed · 2 usage, or the input was refused · 3 the server cannot be reached · 130 interrupted
"""

import errno
from typing import Any

import typer
from typer.core import TyperGroup

from automl_prune.errors import AutomlPruneError, FieldError, NotFoundError, SpecError, StateConflictError, UserError
from services.cli.client import RefusedError, UnreachableError
from services.cli.text import clean

FAILED, USAGE, UNREACHABLE, INTERRUPTED = 1, 2, 3, 130

EXPECTED = (AutomlPruneError, RefusedError, UnreachableError, OSError)


class Guarded(TyperGroup):
    """A group of commands whose expected failures become sentences and an exit code, never a traceback."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise typer.Exit(INTERRUPTED) from None
        except EXPECTED as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise
            for sentence in sentences(error):
                typer.echo(f"automl-prune: {clean(sentence)}", err=True)
            raise typer.Exit(exit_code(error)) from None


def sentences(error: Exception) -> list[str]:
    """What went wrong, one sentence per faulty field where fields are at fault."""
    if isinstance(error, RefusedError | SpecError) and error.errors:
        return [_field(e) for e in error.errors]
    if isinstance(error, UserError):
        return [_field(FieldError(error.pointer, str(error)))]
    if isinstance(error, OSError) and error.strerror:
        return [f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."]
    return [str(error)]


def exit_code(error: Exception) -> int:
    """The exit code an expected failure ends with."""
    if isinstance(error, UnreachableError):
        return UNREACHABLE
    refused = UserError | NotFoundError | StateConflictError | RefusedError | OSError
    return USAGE if isinstance(error, refused) else FAILED


def _field(error: FieldError) -> str:
    if not error.pointer:
        return error.detail
    kind = "field" if error.pointer.startswith("/") else "setting"
    return f"{kind} {error.pointer}: {error.detail}"
