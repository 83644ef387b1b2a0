"""The files of the page, the door, and what the page says when it is closed."""

from __future__ import annotations

import re
import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Request, Response
from pydantic import Field
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, JSONResponse

from latentdiff.web import guard
from latentdiff.web.drawing_body import Closed
from latentdiff.web.routes import Owner, TheStudio, refusals

FOLDER = Path(__file__).parent / "page"
KINDS = {
    ".css": "text/css",
    ".html": "text/html",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
    ".webmanifest": "application/manifest+json",
}
FILE = re.compile(r"[a-z][a-z0-9-]*\.(css|js|svg|webmanifest)")
YEAR = 365 * 24 * 3600
pages = APIRouter(include_in_schema=False)
door = APIRouter(prefix="/v1", tags=["server"])


class Password(Closed):
    """What is said at the door."""

    password: Annotated[str, Field(min_length=1, max_length=1000)]


def page_file(name: str) -> FileResponse:
    """A file of the page; checked anew by the browser each time, so an update is seen."""
    kind = KINDS[Path(name).suffix]
    return FileResponse(FOLDER / name, media_type=kind, headers={"cache-control": "no-cache"})


@pages.get("/")
def index(request: Request) -> FileResponse:
    """The page; a browser that comes for the first time gets a name, to find its jobs again."""
    answer = page_file("index.html")
    if not guard.BROWSER.fullmatch(guard.cookies_of(request.headers).get(guard.BROWSER_COOKIE, "")):
        set_cookie(answer, guard.BROWSER_COOKIE, secrets.token_hex(16), YEAR)
    return answer


@pages.get("/login")
def login_page() -> FileResponse:
    """Where the password is asked for."""
    return page_file("login.html")


@pages.get("/api")
def reference() -> FileResponse:
    """The API's description, made from `/openapi.json` in the browser."""
    return page_file("reference.html")


@pages.get("/{name}")
def file(name: str) -> FileResponse:
    """Scripts, styles, the icon."""
    if not FILE.fullmatch(name) or not (FOLDER / name).is_file():
        raise HTTPException(404, "there is nothing at this address")
    return page_file(name)


@door.post("/login", status_code=204, responses=refusals(413, 422, 429))
def login(said: Password, studio: TheStudio) -> Response:
    """Open a session for a browser; the cookie in the answer is its key."""
    session = studio.access.login(said.password)
    if session is None:
        return JSONResponse({"error": "this is not the password"}, 401)
    answer = Response(status_code=204)
    set_cookie(answer, guard.SESSION_COOKIE, session, None)
    return answer


@door.post("/logout", status_code=204, responses=refusals())
def logout(request: Request, studio: TheStudio) -> Response:
    """End this browser's session."""
    studio.access.logout(guard.cookies_of(request.headers).get(guard.SESSION_COOKIE, ""))
    answer = Response(status_code=204)
    answer.delete_cookie(guard.SESSION_COOKIE, samesite="strict", httponly=True)
    return answer


@door.post("/leave", status_code=204, responses=refusals())
def leave(studio: TheStudio, owner: Owner) -> Response:
    """The page of this browser was closed: its jobs are stopped unless it comes back soon."""
    if owner.startswith("browser:"):
        studio.presence.leave(owner)
    return Response(status_code=204)


def set_cookie(answer: Response, name: str, value: str, age: int | None) -> None:
    """A cookie that scripts cannot read and other sites cannot send."""
    answer.set_cookie(name, value, max_age=age, httponly=True, samesite="strict", path="/")
