"""Who may see the page: everybody on this machine, or who has the token; and the headers that protect a browser.

- Bound to a loopback address without a token, the server answers only requests whose `Host` is a loopback name, so that
  a page of another site cannot read it through a name that it points to 127.0.0.1.
- With a token, it answers `Authorization: Bearer TOKEN`, or the cookie that the form at `/login` gives. The cookie
  holds a number that is drawn at the start of the server, not the token.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable
from ipaddress import ip_address
from pathlib import Path

from aiohttp import web

from streams.errors import ConfigError

__all__ = ["Access", "is_loopback", "read_token"]

_COOKIE = "hotstream"
_MIN_CHARACTERS = 16
_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
    "Server": "hotstream",
}
_OPEN_PATHS = frozenset({"/login", "/style.css", "/icon.svg"})
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def is_loopback(host: str) -> bool:
    """Whether a name or address is of this machine alone."""
    if host.casefold() == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path) -> str:
    """The first line of a file.

    Raises:
        ConfigError: the file cannot be read, or its first line is too short.
    """
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {path}: got {error}, expected a text file") from error
    token = lines[0].strip() if lines else ""
    if len(token) < _MIN_CHARACTERS or not token.isascii():
        raise ConfigError(
            f"--token-file {path}: got a first line of {len(token)} characters, expected {_MIN_CHARACTERS} or more of "
            "ASCII; `openssl rand -hex 24` makes one"
        )
    return token


class Access:
    """Judges the requests of one server.

    Args:
        host: the address that it is bound to.
        token: what a reader must know; None for everybody on this machine.

    Raises:
        ConfigError: others can reach the address, and there is no token.
    """

    def __init__(self, host: str, token: str | None) -> None:
        if token is None and not is_loopback(host):
            raise ConfigError(
                f"--host {host}: got no --token-file, expected one where other machines can connect; write a token "
                "into a file that only you can read, or use --host 127.0.0.1"
            )
        self._token = token
        self._session = secrets.token_urlsafe(32)

    @web.middleware
    async def middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuses or answers a request, with the headers."""
        try:
            response = self._refusal(request) or await handler(request)
        except web.HTTPException as error:
            error.headers.update(_HEADERS)
            raise
        if not response.prepared:  # a stream has sent its headers
            response.headers.update(_HEADERS)
        return response

    def protect(self, response: web.StreamResponse) -> None:
        """Adds the headers to a response that a handler sends itself."""
        response.headers.update(_HEADERS)

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self._token is None:
            name = request.url.host or ""
            if is_loopback(name):
                return None
            return web.Response(
                status=403, text=f"Host: got {name[:100]!r}, expected localhost or a loopback address\n"
            )
        if request.path in _OPEN_PATHS or self._is_known(request):
            return None
        if request.path == "/":
            return web.Response(status=303, headers={"Location": "/login"})
        return web.Response(status=401, text="expected the token, as `Authorization: Bearer TOKEN`\n")

    def _is_known(self, request: web.Request) -> bool:
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        cookie = request.cookies.get(_COOKIE, "")
        return (kind.casefold() == "bearer" and self._is_token(given)) or _equal(cookie, self._session)

    def _is_token(self, given: str) -> bool:
        return self._token is not None and _equal(given.strip(), self._token)

    async def log_in(self, request: web.Request) -> web.Response:
        """Answers the form: a cookie and the page, or the form again."""
        form = await request.post()
        if not self._is_token(str(form.get("token", ""))):
            return web.Response(status=303, headers={"Location": "/login?refused"})
        response = web.Response(status=303, headers={"Location": "/"})
        response.set_cookie(_COOKIE, self._session, httponly=True, samesite="Strict", secure=request.secure)
        return response


def _equal(one: str, other: str) -> bool:
    return hmac.compare_digest(one.encode(), other.encode())
