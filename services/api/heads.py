"""HEAD wherever there is GET: the same headers, and no body."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send


class Heads:
    """Middleware that answers HEAD by what GET would answer; a stream is left before it begins."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["method"] != "HEAD":
            await self.app(scope, receive, send)
            return
        done = False

        async def receive_until_done() -> Message:
            return {"type": "http.disconnect"} if done else await receive()

        async def send_headers(message: Message) -> None:
            nonlocal done
            if message["type"] == "http.response.start":
                done = True
                await send(message)
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        scope["method"] = "GET"
        try:
            await self.app(scope, receive_until_done, send_headers)
        finally:
            scope["method"] = "HEAD"
