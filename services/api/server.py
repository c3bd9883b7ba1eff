"""The HTTP server: uvicorn, told to end open streams before it waits for their connections to close."""

import socket

import uvicorn
from fastapi import FastAPI


class Server(uvicorn.Server):
    """Serves an app of :func:`services.api.app.create_app` until a signal; then it is gone within seconds."""

    def __init__(self, app: FastAPI, *, grace_seconds: int, log_level: str = "warning") -> None:
        self._app = app
        config = uvicorn.Config(
            app,
            log_config=None,
            log_level=log_level,
            access_log=False,
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=grace_seconds,
        )
        super().__init__(config)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop: end streams, finish what is being answered, close."""
        self._app.state.feed.close()
        await super().shutdown(sockets)
