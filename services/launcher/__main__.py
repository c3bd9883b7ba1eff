"""``python -m services.launcher``: run the launcher until it is told to stop."""

import signal
import threading

from automl_prune.storage.keys import ApiKeys
from automl_prune.storage.retention import Retention
from automl_prune.storage.webhooks import Webhooks
from services import garbage, logs, ray_auth
from services.launcher.launcher import Launcher
from services.launcher.sweeping import sweeping
from services.settings import Settings, load_settings
from services.webhooks.sender import Sender
from services.wiring import open_store


def main(settings: Settings | None = None) -> None:
    """Launch searches until SIGTERM or SIGINT; without ``settings``, with those of the environment."""
    settings = settings or load_settings()
    logs.configure(settings.log_format)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    ray_auth.require_closed(settings)
    store = open_store(settings)
    garbage.spare_what_is_here()
    retention = Retention(store.database, settings.event_days, settings.event_least)
    with Sender(Webhooks(store), settings).running(), sweeping(retention):
        Launcher(store, settings, ApiKeys(store.database).running_limits).run(stop)


if __name__ == "__main__":
    main()
