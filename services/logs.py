"""How processes of the service log: one line per event on stderr, without libraries' small talk."""

import logging


def configure() -> None:
    """Log from INFO on; migrations from WARNING on, as they run at every start."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
