"""``python -m services.cli.tethered MODULE [ARGUMENT …]``: run a module that is stopped when its parent is gone.

Its stdin is a pipe that the parent holds open and never writes to. When the parent ends, however it ends, the pipe closes,
and the module gets the SIGTERM that an orderly parent would have sent.
"""

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module named on the command line as ``__main__``."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_parent() -> None:
    os.read(0, 1)  # not sys.stdin: its lock would be held when the interpreter shuts down
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    main()
