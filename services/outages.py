"""What stays away for a while is said once when it goes and once when it is back, however often it is tried meanwhile."""

import logging

from automl_prune.messages import said
from automl_prune.storage.patient import is_away


class Outages:
    """Logs failures of one thing that is tried again and again.

    Args:
        log: Where to.
        what: What fails, to be followed by "does not answer".
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log, self._what = log, what
        self._kind: type[BaseException] | None = None

    def failed(self, error: BaseException) -> None:
        """A try failed; the traceback is told of errors that no database's absence explains."""
        if type(error) is self._kind:
            return
        self._kind = type(error)
        if is_away(error):
            self._log.warning("%s does not answer (%s) Trying again until it does.", self._what, said(error))
        else:
            self._log.error("%s failed; trying again", self._what, exc_info=error)

    def answered(self) -> None:
        """A try succeeded."""
        if self._kind is not None:
            self._log.info("%s answers again", self._what)
        self._kind = None
