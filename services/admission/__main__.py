"""``python -m services.admission NAME CLASSES``: admit one network; see the package for how it answers."""

import json
import math
import os
import signal
import sys
import threading
from typing import Any

import torch

from automl_prune import plugins
from automl_prune.errors import UserError
from automl_prune.loop.admission import POINTER, admitted
from automl_prune.networks import NETWORKS
from services import logs
from services.admission import STARTING_SECONDS, verification_seconds
from services.settings import Settings, load_settings

_SPARE_SECONDS = 10


def main(arguments: list[str]) -> None:
    """Admit the network named on the command line, for so many classes."""
    settings = load_settings()
    # Should the parent be gone, this one ends: at once, or at the latest when even Python hangs, by the kernel's clock.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    signal.alarm(math.ceil(STARTING_SECONDS + settings.admission_seconds) + _SPARE_SECONDS)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a plug-in prints is for the log

    def say(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    logs.configure(settings.log_format, network=arguments[0])
    torch.set_num_threads(1)  # the cores belong to the trials
    try:
        say(_admitted(arguments[0], int(arguments[1]), settings, say))
    except UserError as error:
        say({"error": error.code, "message": str(error), "pointer": error.pointer})


def _admitted(name: str, num_classes: int, settings: Settings, say: Any) -> dict[str, Any]:
    plugins.allow(settings.plugins)
    architecture = admitted(
        NETWORKS.get(name, pointer=POINTER),
        num_classes,
        settings.cache_dir,
        seconds=verification_seconds(settings),
        on_stage=lambda stage: say({"stage": stage}),
    )
    return {"architecture": architecture.to_json()}


def _end_with_parent() -> None:
    os.read(0, 1)
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main(sys.argv[1:])
