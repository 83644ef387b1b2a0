"""Who may ask: hosts, origins, a password, tokens, sizes. Every request passes here first.

A server on loopback is reachable from every page that the same browser has open: a page of another
site may send requests to 127.0.0.1, and may point a name of its own there (DNS rebinding). So the
Host header must be one that this server is known by, and a browser's request that changes anything
must come from a page of this server.
"""

from __future__ import annotations

import hmac
import re
import secrets
import threading
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from http.cookies import CookieError, SimpleCookie
from pathlib import Path
from typing import Any

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from latentdiff.errors import UserError
from latentdiff.files.text_file import read_lines

SESSION_COOKIE = "latentdiff_session"
BROWSER_COOKIE = "latentdiff_browser"
BROWSER = re.compile(r"[0-9a-f]{32}")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SAFE = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = (
    *("/login", "/v1/login", "/login.js", "/api.js", "/dom.js", "/style.css", "/icon.svg"),
)
"""What is shown to those who have not said the password yet."""
MAX_FAILURES = 10
"""Wrong passwords a minute, of all callers together."""
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'; manifest-src 'self'",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
}


@dataclass
class Access:
    """password, tokens (token → its owner's name): with neither the server is open; else the page
    asks for one of them, and the API for it as a bearer token.

    hosts: names by which the server is reached, without ports; "*" stands for any.
    """

    password: str | None = None
    tokens: Mapping[str, str] = field(default_factory=dict)
    hosts: Collection[str] = LOOPBACK
    _sessions: set[str] = field(default_factory=set)
    _failures: list[float] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def closed(self) -> bool:
        """Whether anything has to be shown at the door."""
        return self.password is not None or bool(self.tokens)

    def _is_secret(self, given: str) -> bool:
        known = [*self.tokens, *([] if self.password is None else [self.password])]
        return sum(_same(given, secret) for secret in known) > 0  # none is skipped

    def login(self, password: str) -> str | None:
        """A new session's secret for the right password; HTTPException 429 after many wrong."""
        with self._lock:
            now = time.monotonic()
            self._failures = [t for t in self._failures if now - t < 60]
            if len(self._failures) >= MAX_FAILURES:
                raise HTTPException(429, "too many wrong passwords; try again in a minute")
            if not self._is_secret(password):
                self._failures.append(now)
                return None
            session = secrets.token_urlsafe(32)
            self._sessions.add(session)
            return session

    def logout(self, session: str) -> None:
        """Forget a session."""
        self._sessions.discard(session)

    def owner(self, headers: Headers) -> str | None:
        """Whose request this is: a browser's, a token's, "api"; None for one that may not in."""
        cookies = cookies_of(headers)
        browser = cookies.get(BROWSER_COOKIE, "")
        named = f"browser:{browser}" if BROWSER.fullmatch(browser) else None
        kind, _, token = headers.get("authorization", "").partition(" ")
        if not self.closed:
            return named or "api"
        if kind.lower() == "bearer" and self._is_secret(token):
            return named or f"token:{self.tokens.get(token, '')}"
        return (named or "api") if cookies.get(SESSION_COOKIE, "") in self._sessions else None


class Guard:
    """ASGI: refuses what may not in, names the owner in the scope, adds the headers."""

    def __init__(self, app: ASGIApp, access: Access, max_body: int) -> None:
        self.app, self.access, self.max_body = app, access, max_body

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = Headers(scope=scope)

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                extra = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message["headers"], *extra]
            await send(message)

        refusal = self.refusal(scope, headers)
        if refusal is not None:
            await refusal(scope, receive, with_headers)
            return
        await self.app(scope, self.counted(receive), with_headers)

    def refusal(self, scope: Scope, headers: Headers) -> Any:
        """The answer to a request that may not in, and why, in one sentence; None for others."""
        if not (_host(headers.get("host", "")) in self.access.hosts or "*" in self.access.hosts):
            return _error(421, "this server is not known by that name; open it by its own address")
        origin, method = headers.get("origin"), scope["method"]
        foreign = origin is not None and origin.partition("://")[2] != headers.get("host")
        if method not in SAFE and (foreign or headers.get("sec-fetch-site") == "cross-site"):
            return _error(403, "this request comes from a page of another site; it was not done")
        length = headers.get("content-length", "0")
        if length.isdigit() and int(length) > self.max_body:
            return _error(413, f"the request is larger than {self.max_body:,} bytes")
        owner = self.access.owner(headers)
        path = scope["path"]
        if owner is None and path not in OPEN_PATHS:
            if path == "/":
                return JSONResponse({}, 303, headers={"location": "/login"})
            return _error(
                401,
                "a password or a token is needed: send the header Authorization: Bearer TOKEN",
                {"www-authenticate": "Bearer"},
            )
        scope["owner"] = owner or "api"
        return None

    def counted(self, receive: Receive) -> Receive:
        """`receive` that refuses a body longer than the limit, whatever its header said."""
        total = 0

        async def counting() -> Message:
            nonlocal total
            message = await receive()
            total += len(message.get("body", b""))
            if total > self.max_body:
                raise HTTPException(413, f"the request is larger than {self.max_body:,} bytes")
            return message

        return counting


def read_tokens(path: Path) -> dict[str, str]:
    """Token → name, from lines of NAME TOKEN; UserError for other lines and short tokens."""
    found: dict[str, str] = {}
    for number, line in enumerate(read_lines(path, "tokens"), start=1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or len(words[1]) < 16:
            raise UserError(
                f"line {number} of {path} is not NAME TOKEN with a token of at least 16 characters"
            )
        found[words[1]] = words[0]
    if not found:
        raise UserError(f"{path} holds no token; expected lines of NAME TOKEN")
    return found


def cookies_of(headers: Headers) -> dict[str, str]:
    """The cookies of a request; none when they cannot be read."""
    try:
        return {name: morsel.value for name, morsel in SimpleCookie(headers.get("cookie")).items()}
    except CookieError:
        return {}


def _same(a: str, b: str) -> bool:
    """Equality that takes as long for a near miss as for a far one."""
    return hmac.compare_digest(a.encode("utf-8", "replace"), b.encode("utf-8", "replace"))


def _host(header: str) -> str:
    """The name in a Host header, without its port."""
    return re.sub(r":\d*$", "", header).lower()


def _error(status: int, sentence: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers=dict(headers or {}))
