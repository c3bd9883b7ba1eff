"""Parts of files that cannot be had: Starlette says so in plain text, and we as everything else that is refused."""

from fastapi import Request
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.api.problems import RequestError, answer


class Ranges:
    """Middleware that answers a Range which no file has, or nobody can read, with a problem."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or "range" not in Headers(scope=scope):
            await self.app(scope, receive, send)
            return
        refused = False

        async def send_problem(message: Message) -> None:
            nonlocal refused
            if message["type"] == "http.response.start" and (problem := _refusal(message)) is not None:
                refused = True
                await (await answer(Request(scope), problem))(scope, receive, send)
            elif not refused:
                await send(message)

        await self.app(scope, receive, send_problem)


def _refusal(start: Message) -> RequestError | None:
    headers = Headers(raw=start["headers"])
    if not headers.get("content-type", "").startswith("text/plain"):
        return None
    if start["status"] == 416:
        whole = headers["content-range"]
        detail = f"The file has {whole.rpartition('/')[2]} bytes; the Range header asks for others."
        return RequestError(416, "range_not_satisfiable", detail, headers={"Content-Range": whole})
    if start["status"] == 400:
        return RequestError(400, "malformed_range", "The Range header cannot be read; write 'bytes=0-99', or leave it out.")
    return None
