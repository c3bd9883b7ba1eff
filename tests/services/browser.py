"""A real browser that stays open, told what to do over a pipe, as its developer tools are."""

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


class Tab:
    """One open page."""

    def __init__(self, write: int, read: int) -> None:
        self._write, self._read, self._number, self._rest = write, read, 0, b""
        self._session: str | None = None
        target = self._ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self._ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]

    def open(self, url: str) -> None:
        """Go to an address."""
        self._ask("Page.navigate", url=url)

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        return self._ask("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait(self, expression: str, seconds: float = 60) -> None:
        """Wait until an expression in the page is true."""
        deadline = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < deadline, (expression, self.evaluate("document.body.innerText"))
            time.sleep(0.05)

    def _ask(self, method: str, **parameters: Any) -> Any:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                came = os.read(self._read, 1 << 16)
                assert came, "the browser is gone"
                self._rest += came
            said, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(said)
            if answer.get("id") == self._number:
                return answer["result"]


@contextmanager
def opened(browser: str, flags: list[str], profile: Path) -> Iterator[Tab]:
    """A browser with one page, for as long as the block lasts."""
    (their_read, write), (read, their_write) = os.pipe(), os.pipe()
    command = [browser, *flags, f"--user-data-dir={profile}", "--remote-debugging-pipe"]
    # the browser reads descriptor 3 and writes 4
    shell = ["bash", "-c", f'exec "$@" 3<&{their_read} 4>&{their_write}', "browser", *command]
    process = subprocess.Popen(
        shell, pass_fds=(their_read, their_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    for descriptor in (their_read, their_write):
        os.close(descriptor)
    try:
        yield Tab(write, read)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
        process.kill()
        process.wait()
        for descriptor in (write, read):
            os.close(descriptor)
