"""``python -m services.launcher``: run the launcher until it is told to stop."""

import signal
import threading

from services import logs
from services.launcher.launcher import Launcher
from services.settings import Settings, load_settings
from services.wiring import open_store


def main(settings: Settings | None = None) -> None:
    """Launch searches until SIGTERM or SIGINT; without ``settings``, with those of the environment."""
    logs.configure()
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    settings = settings or load_settings()
    Launcher(open_store(settings), settings).run(stop)


if __name__ == "__main__":
    main()
