"""The server as one ASGI application: routes, refusals as sentences, the guard around all."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.routing import Match

from latentdiff.errors import UserError
from latentdiff.html.page import printable
from latentdiff.web import bodies, routes
from latentdiff.web.drawing_body import draw_body, said_of
from latentdiff.web.gallery import NoPictureError
from latentdiff.web.guard import Guard
from latentdiff.web.jobs import LineFullError
from latentdiff.web.pages import door, pages
from latentdiff.web.studio import NoJobError, Studio
from latentdiff.web.teach.lesson_routes import lessons
from latentdiff.web.teach.lessons import NoLessonError
from latentdiff.web.uploads import NoUploadError

log = logging.getLogger(__name__)
ABOUT = (
    "Pictures from prompts. Send what to draw to `POST /v1/images`, follow the job at "
    "`/v1/jobs/{id}/events`, fetch the picture at `/v1/images/{id}/png`."
)
NOT_HERE = (NoPictureError, NoJobError, NoUploadError, NoLessonError)


def create_app(studio: Studio) -> FastAPI:
    """The application of a studio; its worker runs while the application does."""
    app = FastAPI(
        title="latentdiff",
        version=version("latentdiff"),
        description=ABOUT,
        docs_url=None,  # FastAPI's own page loads its scripts from another site
        redoc_url=None,
        lifespan=_while_it_runs,
        redirect_slashes=False,
    )
    app.state.studio = studio
    _add_drawing(app, studio)
    app.include_router(routes.api)
    app.include_router(lessons)
    app.include_router(door)
    app.include_router(pages)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(UserError, _mistake)
    app.add_exception_handler(LineFullError, _line_full)
    app.add_exception_handler(Exception, _broken)
    app.add_middleware(Guard, access=studio.access, max_body=studio.limits.max_body)
    return app


def _add_drawing(app: FastAPI, studio: Studio) -> None:
    """`POST /v1/images`, whose body depends on the server's limits."""
    body_type = draw_body(studio.limits)

    def draw(body: Any, studio: Studio, owner: str) -> bodies.JobView:
        return routes.draw(body, studio, owner)

    draw.__doc__ = routes.draw.__doc__
    draw.__annotations__ = {
        "body": body_type,
        "studio": routes.TheStudio,
        "owner": routes.Owner,
        "return": bodies.JobView,
    }
    app.post(
        "/v1/images", status_code=202, tags=["images"], responses=routes.refusals(413, 422, 429)
    )(draw)


@contextlib.asynccontextmanager
async def _while_it_runs(app: FastAPI) -> AsyncIterator[None]:
    studio: Studio = app.state.studio
    studio.start()

    async def sweep() -> None:
        while True:
            await asyncio.sleep(1.0)
            studio.stop_abandoned()

    task = asyncio.create_task(sweep())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.to_thread(studio.close)


def _answer(status: int, sentence: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": printable(sentence)}, status, headers=headers)


def _http_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    said = {
        400: "the body cannot be read; expected JSON text",
        404: "there is nothing at this address",
        405: f"{request.method} is not known here",
    }
    sentence = said.get(error.status_code, error.detail)
    headers = dict(error.headers or {})
    if error.status_code == 400:
        return _answer(422, sentence)
    if error.status_code == 405:
        headers["allow"] = ", ".join(_methods(request))
    return _answer(error.status_code, str(sentence), **headers)


def _methods(request: Request) -> list[str]:
    """All methods of an address; the router's own answer names those of its first route only."""
    return [
        method
        for method in ("DELETE", "GET", "POST")
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL
            for route in request.app.routes
        )
    ]


def _invalid(request: Request, error: Exception) -> JSONResponse:
    """The first thing that is wrong with a body or a parameter, in one sentence."""
    assert isinstance(error, RequestValidationError)
    return _answer(422, said_of(error.errors()[0]))


def _mistake(request: Request, error: Exception) -> JSONResponse:
    return _answer(404 if isinstance(error, NOT_HERE) else 422, str(error))


def _line_full(request: Request, error: Exception) -> JSONResponse:
    return _answer(429, str(error), **{"retry-after": "10"})


def _broken(request: Request, error: Exception) -> JSONResponse:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return _answer(500, "something broke that should not; the terminal of the server says where")
