"""The JSON API under `/v1`: pictures, jobs, recipes, what the server is."""

from __future__ import annotations

import asyncio
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi import Path as InPath
from PIL import Image
from pydantic import BaseModel
from starlette.responses import FileResponse, StreamingResponse

from latentdiff.errors import UserError
from latentdiff.pipelines.recipes.picture_file import read_recipes
from latentdiff.schedulers import names
from latentdiff.web import bodies, stream
from latentdiff.web.bodies import (
    ErrorView,
    ImageList,
    ImageView,
    JobView,
    LoraView,
    ModelView,
    RecipeList,
    ServerView,
    UploadView,
)
from latentdiff.web.drawing_body import draw_body, order_of
from latentdiff.web.jobs import ENDED
from latentdiff.web.studio import Studio
from latentdiff.web.uploads import without_paths

MAX_DROPPED_PIXELS = 64_000_000
KEEP = {"cache-control": "private, max-age=86400, immutable"}
PNG_BODY = {
    "required": True,
    "content": {"image/png": {"schema": {"type": "string", "format": "binary"}}},
}


def studio_of(request: Request) -> Studio:
    """The server's state."""
    found: Studio = request.app.state.studio
    return found


def owner_of(request: Request) -> str:
    """Whose request it is."""
    return str(request.scope["owner"])


def refusals(*codes: int) -> dict[int | str, dict[str, Any]]:
    """The refusals of a call, for its description."""
    said = {
        401: "no password, no token",
        403: "from a page of another site",
        404: "nothing has this id",
        413: "the body is too large",
        421: "the server is not known by this name",
        422: "what cannot be done, and why",
        429: "the line is full; try again later",
    }
    return {
        code: {"model": ErrorView, "description": said[code]} for code in (401, 403, 421, *codes)
    }


TheStudio = Annotated[Studio, Depends(studio_of)]
Owner = Annotated[str, Depends(owner_of)]
PictureId = Annotated[str, InPath(max_length=210, description="An id of GET /v1/images.")]
JobId = Annotated[str, InPath(max_length=64, description="The id of a job.")]
api = APIRouter(prefix="/v1")


@api.get("/server", tags=["server"], responses=refusals())
def server(studio: TheStudio) -> ServerView:
    """What this server is, and what it takes."""
    limits = {name: getattr(studio.limits, name) for name in studio.limits.__dataclass_fields__}
    return ServerView(
        version=version("latentdiff"),
        device=str(studio.artist.device),
        model=studio.shelf.first,
        schedulers=list(names.known_names()),
        limits=limits,
        fields=list(draw_body(studio.limits).model_fields),
        password=studio.access.closed,
    )


@api.get("/models", tags=["server"], responses=refusals())
def models(studio: TheStudio) -> list[ModelView]:
    """The models to choose from, the default first."""
    return bodies.model_views(studio.shelf)


@api.get("/loras", tags=["server"], responses=refusals())
def loras(studio: TheStudio) -> list[LoraView]:
    """The LoRAs to choose from."""
    return [
        LoraView(name=lora.name, words=list(lora.words), prompt=lora.prompt)
        for lora in studio.shelf.loras().values()
    ]


def draw(body: BaseModel, studio: Studio, owner: str) -> JobView:
    """Put a drawing in line. The answer is the job; follow it at `/v1/jobs/{id}/events`."""
    order = order_of(body, studio.find_picture, studio.limits)
    job, line = studio.draw(order, owner)
    return bodies.job_view(job, line)


@api.get("/images", tags=["images"], responses=refusals(422))
def images(
    studio: TheStudio,
    limit: Annotated[int, Query(ge=1, le=200)] = 60,
    before: Annotated[
        str | None, Query(max_length=210, description="`next` of the page before.")
    ] = None,
) -> ImageList:
    """What was drawn, newest first."""
    found = studio.gallery.page(limit=limit, before=before)
    more = found[-1].id if len(found) == limit else None
    return ImageList(images=[bodies.image_view(entry) for entry in found], next=more)


@api.get("/images/{picture_id}", tags=["images"], responses=refusals(404, 422))
def image(picture_id: PictureId, studio: TheStudio) -> ImageView:
    """One picture's size and recipe, and where its words acted once that was asked for."""
    return bodies.image_view(studio.gallery.get(picture_id), studio.artist.words_of(picture_id))


@api.post(
    "/images/{picture_id}/words",
    tags=["images"],
    status_code=202,
    responses=refusals(404, 422, 429),
)
def words(picture_id: PictureId, studio: TheStudio, owner: Owner) -> JobView:
    """Put in line that the picture is drawn again to see where its words act (DAAM, Tang et al.
    2022). Once the job is done, `words` of the picture tell."""
    return bodies.job_view(*studio.explain(picture_id, owner))


@api.get(
    "/images/{picture_id}/png",
    tags=["images"],
    responses=refusals(404, 422) | {200: {"content": {"image/png": {}}}},
    response_class=FileResponse,
)
def png(picture_id: PictureId, studio: TheStudio) -> FileResponse:
    """The picture, with its recipe inside."""
    path = studio.gallery.path(picture_id)
    return FileResponse(
        path,
        media_type="image/png",
        filename=path.name,
        headers=KEEP,
        content_disposition_type="inline",
    )


@api.delete("/images/{picture_id}", tags=["images"], status_code=204, responses=refusals(404, 422))
def remove(picture_id: PictureId, studio: TheStudio) -> Response:
    """Move a picture to the trash."""
    studio.gallery.remove(picture_id)
    return Response(status_code=204)


@api.post("/images/{picture_id}/restore", tags=["images"], responses=refusals(404, 422))
def restore(picture_id: PictureId, studio: TheStudio) -> ImageView:
    """Take a picture out of the trash again."""
    return bodies.image_view(studio.gallery.restore(picture_id))


@api.post(
    "/recipes",
    tags=["images"],
    responses=refusals(413, 422),
    openapi_extra={"requestBody": PNG_BODY},
)
async def recipes(request: Request) -> RecipeList:
    """The settings inside a PNG: send the file as the body."""
    data = await request.body()
    return await asyncio.to_thread(recipes_in, data)


def recipes_in(data: bytes) -> RecipeList:
    """The recipes inside a PNG's bytes; UserError for other bytes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "picture.png"
        path.write_bytes(data)
        try:
            with Image.open(path, formats=("PNG",)) as picture:
                pixels = picture.width * picture.height
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise UserError("this is no PNG picture; its settings cannot be read") from error
        if pixels > MAX_DROPPED_PIXELS:
            raise UserError(f"this picture has {pixels:,} pixels; at most {MAX_DROPPED_PIXELS:,}")
        try:
            tables = [recipe.to_json() for recipe in read_recipes(path)]
        except UserError as error:
            raise UserError(str(error).replace(str(path), "this picture")) from error
    return RecipeList(recipes=[t | {"request": without_paths(t["request"])} for t in tables])


PICTURE_BODY = {
    "required": True,
    "content": {
        f"image/{kind}": {"schema": {"type": "string", "format": "binary"}}
        for kind in ("png", "jpeg", "webp")
    },
}
UploadId = Annotated[str, InPath(max_length=64, description="An id that POST /v1/uploads gave.")]


@api.post(
    "/uploads",
    tags=["images"],
    status_code=201,
    responses=refusals(413, 422),
    openapi_extra={"requestBody": PICTURE_BODY},
)
async def upload(request: Request, studio: TheStudio) -> UploadView:
    """Send a picture to start from, or a mask, as the body. It stays in memory, and leaves it when
    newer ones need the room; what is drawn from is kept."""
    found = await asyncio.to_thread(studio.uploads.add, await request.body())
    return UploadView(id=found.id, width=found.width, height=found.height)


@api.get(
    "/uploads/{upload_id}",
    tags=["images"],
    responses=refusals(404, 422) | {200: {"content": PICTURE_BODY["content"]}},
    response_class=Response,
)
def uploaded(upload_id: UploadId, studio: TheStudio) -> Response:
    """A picture that was sent, as it was sent."""
    data, media_type = studio.uploads.read(upload_id)
    return Response(data, media_type=media_type, headers=KEEP)


@api.get("/jobs", tags=["jobs"], responses=refusals())
def jobs(studio: TheStudio, owner: Owner) -> list[JobView]:
    """Your jobs, oldest first."""
    return [bodies.job_view(job, line) for job, line in studio.jobs_of(owner)]


@api.get("/jobs/{job_id}", tags=["jobs"], responses=refusals(404, 422))
async def job(
    job_id: JobId,
    studio: TheStudio,
    wait: Annotated[float, Query(ge=0, le=30, description="Seconds to wait for its end.")] = 0,
) -> JobView:
    """A job as it is now, or once it has ended."""
    found, line = studio.find(job_id)
    end = asyncio.get_running_loop().time() + wait
    while found.state not in ENDED and asyncio.get_running_loop().time() < end:
        await asyncio.sleep(0.1)
    return bodies.job_view(found, line)


@api.post("/jobs/{job_id}/stop", tags=["jobs"], responses=refusals(404, 422))
def stop(job_id: JobId, studio: TheStudio) -> JobView:
    """Stop a job: at once when it waits, at its next step when it runs."""
    found, line = studio.find(job_id)
    line.stop(found)
    return bodies.job_view(found, line)


STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "event: job, data: a job", "content": {"text/event-stream": {}}}
}


@api.get(
    "/jobs/{job_id}/events",
    tags=["jobs"],
    responses=refusals(404, 422) | STREAM,
    response_class=StreamingResponse,
)
async def job_events(job_id: JobId, studio: TheStudio) -> StreamingResponse:
    """Server-sent events: the job after every step; the stream ends with the job."""
    found, line = studio.find(job_id)
    return stream.response(stream.events([line], lambda: [(found, line)], ends=True))


@api.get("/events", tags=["jobs"], responses=refusals() | STREAM, response_class=StreamingResponse)
async def all_events(studio: TheStudio, owner: Owner) -> StreamingResponse:
    """Server-sent events: all your jobs, each when it changes; the stream does not end."""

    async def listen() -> Any:
        with studio.presence.page(owner):
            async for item in stream.events(
                studio.lines, lambda: studio.jobs_of(owner), ends=False
            ):
                yield item

    return stream.response(listen())
