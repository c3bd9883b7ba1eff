"""``python -m services.measuring``: measure what its stdin asks for, one after the other, until that is closed."""

import json
import logging
import math
import os
import queue
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from automl_prune import plugins
from automl_prune.errors import AutomlPruneError
from automl_prune.latency.conditions import Conditions
from automl_prune.latency.devices import taking_turns
from automl_prune.latency.runtimes.base import describe_this_machine
from automl_prune.latency.stopwatch import Stopwatches
from automl_prune.latency.work import work_from_json
from automl_prune.messages import said
from services import logs
from services.settings import load_settings

log = logging.getLogger("automl_prune.measuring")

_SPARE_SECONDS = 10


def main() -> None:
    """Answer every request by a word that it is heard, one once its turn has come, and a timing or an error."""
    settings = load_settings()
    logs.configure(settings.log_format)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plug-in prints is for the log
    plugins.allow(settings.plugins)
    stopwatches, requests = Stopwatches(), queue.SimpleQueue[str]()
    threading.Thread(target=_read, args=(requests,), daemon=True).start()

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    describe_this_machine()  # imports the runtimes, which no measurement is to wait for
    say({"ready": True})
    while True:
        request = json.loads(requests.get())
        say({"heard": True})
        with taking_turns(Path(request["lock"]) if request["lock"] else None):
            say({"begun": True})
            # Should the parent be gone while even Python hangs, the kernel's clock ends this process.
            signal.alarm(math.ceil(settings.measurement_seconds) + _SPARE_SECONDS)
            found = _measured(request, stopwatches)
            signal.alarm(0)
        say(found)


def _measured(request: dict[str, Any], stopwatches: Stopwatches) -> dict[str, Any]:
    try:
        timing = stopwatches.time(Conditions.from_json(request["conditions"]), work_from_json(request["work"]))
    except AutomlPruneError as error:
        return {"error": str(error) or type(error).__name__}
    except Exception as error:  # whatever work that only this machine cannot take comes to; others can be measured
        log.exception("it cannot be timed")
        return {"error": said(error)}
    return {"timing": timing.to_json()}


def _read(requests: "queue.SimpleQueue[str]") -> None:
    """Pass requests on; when there can be no more, as the parent is gone, end at once, whatever is being measured."""
    for line in sys.stdin:
        requests.put(line)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()
