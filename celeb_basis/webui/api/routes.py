"""The routes: photos, learning and other jobs; the people of the library; and adding them to the host's application."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Depends, FastAPI, File, Form, Header, Query, Response, UploadFile
from fastapi.responses import StreamingResponse
from fastapi.security import HTTPBasic

from celeb_basis import __version__
from celeb_basis.errors import HostError, IdentityError, PhotoError, SettingsError
from celeb_basis.identities.identity import FORMAT_VERSION
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.provenance import generated_image_bytes
from celeb_basis.settings import AUTO
from celeb_basis.webui.api import PREFIX
from celeb_basis.webui.api.access import Access
from celeb_basis.webui.api.bodies import BodyError, parsed_json
from celeb_basis.webui.api.error_responses import (
    AnswerResponse,
    ErrorHandlingRoute,
    body_limit,
    decodes_photos,
    json_text,
    works,
)
from celeb_basis.webui.api.payloads import (
    LICENSE,
    LIKENESS,
    MAX_FILE,
    PRESET,
    Answer,
    BasisBody,
    BlendBody,
    EstimateBody,
    EvaluateBody,
    FaceModelsBody,
    FacesBody,
    FileBody,
    InventBody,
    LearnBody,
    MixtureBody,
    NotesBody,
    RenameBody,
    SaveInventedBody,
    decoded,
    encoded,
)
from celeb_basis.webui.host_server import ending
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.schemas import (
    BlendRequest,
    EvaluateRequest,
    FoundFaces,
    LearnRequest,
    NoSuchJobError,
    PhotoUpload,
    PreviewRequest,
    UploadedPhoto,
)
from celeb_basis.webui.service import Service

LEARN_LIMIT = 256 << 20
"""Bytes of all photos of one run, as they are sent."""

_POLL = 0.2
_HEARTBEAT = 15.0
"""Seconds; proxies cut connections that stay silent for a minute."""


def jobs_router(service: Service) -> APIRouter:
    """``/version``, ``/settings``, ``/face-models``, ``/faces``, ``/learn``, ``/evaluate``, ``/jobs`` and ``/basis``."""
    router = APIRouter(
        route_class=ErrorHandlingRoute, default_response_class=AnswerResponse, tags=["Celeb Basis: learning"]
    )

    @router.get("/version", summary="The version of the extension, and of the identity files that it writes")
    def version() -> Answer:
        return {"version": __version__, "identity_format": FORMAT_VERSION}

    @router.get("/settings", summary="Presets, and every setting's default, range and help")
    def settings() -> Answer:
        return service.settings_table() | {"face_models": service.faces.status()}

    @router.get("/face-models", summary="The face models: whether they are here, and their license")
    def face_models() -> Answer:
        return service.faces.status()

    @router.post(
        "/face-models", summary="Download the face models, as a job, once their license is agreed to", status_code=202
    )
    def get_face_models(body: FaceModelsBody) -> Answer:
        return service.start_faces(accept_licence=body.accept_licence).as_dict()

    @router.post("/faces", summary="Find the faces of a photo (base64)")
    @body_limit(MAX_FILE * 3 // 2)
    @decodes_photos
    def faces_json(body: FacesBody) -> Answer:
        service.check_license(body.accept_licence)
        return service.faces.find_faces(decoded(body.data, body.name), body.name).as_dict()

    @router.post("/faces/form", summary="Find the faces of a photo (multipart)")
    @body_limit(MAX_FILE + (1 << 20))
    @decodes_photos
    def faces_form(
        photo: UploadFile = File(...),  # noqa: B008
        accept_licence: bool = Form(False, description=LICENSE),
    ) -> Answer:
        service.check_license(accept_licence)
        found: FoundFaces = service.faces.find_faces(_content(photo), photo.filename or "the photo")
        return found.as_dict()

    @router.post("/learn/estimate", summary="How much memory a run would take now")
    @body_limit(1 << 20)
    def learn_estimate(body: EstimateBody) -> Answer:
        need = service.memory_need(body.preset, body.settings)
        if need is None:
            raise HostError("No checkpoint is loaded: load one, then ask again.")
        return need.as_dict()

    @router.post("/learn", summary="Learn people from photos (base64)", status_code=202)
    @body_limit(LEARN_LIMIT * 3 // 2)
    def learn_json(body: LearnBody) -> Answer:
        return service.start_learning(body.request()).as_dict()

    @router.post("/learn/form", summary="Learn one person from photos (multipart)", status_code=202)
    @body_limit(LEARN_LIMIT)
    def learn_form(
        name: str = Form(...),
        photos: list[UploadFile] = File(...),  # noqa: B008
        face: int | None = Form(None),
        preset: str = Form(AUTO, description=PRESET),
        settings: str = Form("{}", description="changes to the preset, as a JSON object"),
        consent: bool = Form(False),
        consent_note: str = Form(""),
        notes: str = Form(""),
        replace: bool = Form(False),
        accept_licence: bool = Form(False, description=LICENSE),
        likeness: bool | None = Form(None, description=LIKENESS),
    ) -> Answer:
        files = tuple(UploadedPhoto(_content(one), one.filename or "photo", face) for one in photos)
        request = LearnRequest(
            (PhotoUpload(name, files),),
            preset=preset,
            settings=_json_object(settings),
            consent=consent,
            consent_note=consent_note,
            notes=notes,
            replace=replace,
            accept_licence=accept_licence,
            likeness=likeness,
        )
        return service.start_learning(request).as_dict()

    @router.post("/prepare", summary="Prepare the loaded checkpoint for quick and best", status_code=202)
    def prepare(body: FaceModelsBody) -> Answer:
        return service.start_preparation(accept_licence=body.accept_licence).as_dict()

    @router.post("/evaluate", summary="Generate a grid of prompts and measure it", status_code=202)
    @body_limit(LEARN_LIMIT * 3 // 2)
    def evaluate(body: EvaluateBody) -> Answer:
        photos = tuple(UploadedPhoto(decoded(one.data, one.name), one.name, one.face) for one in body.photos)
        numbers = (body.prompts, body.seeds, body.seed, body.steps, body.guidance)
        request = EvaluateRequest(body.name, photos, tuple(body.kinds), *numbers, accept_licence=body.accept_licence)
        return service.evaluate(request).as_dict()

    @router.get("/jobs", summary="All jobs, newest first")
    def jobs() -> Answer:
        return {"jobs": [job.as_dict() for job in service.jobs()]}

    @router.get("/jobs/{job_id}", summary="The progress of a job")
    def job(
        job_id: str, after: int | None = Query(None, description="also answer the events after this index; -1: all")
    ) -> Answer:
        found = service.job(job_id)
        return found.as_dict() | ({} if after is None else {"events": found.events_after(after)})

    @router.get("/jobs/{job_id}/events", summary="The events of a job, as server-sent events", response_class=Response)
    def events(job_id: str, after: int = -1, last_event_id: str | None = Header(None)) -> StreamingResponse:
        last = last_event_id or ""
        start = int(last[:18]) if last.isascii() and last.isdecimal() else after
        headers = {
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            # The host compresses answers, and would hold events back until a block is full.
            "Content-Encoding": "identity",
        }
        return StreamingResponse(_stream(service.job(job_id), start), media_type="text/event-stream", headers=headers)

    @router.get("/jobs/{job_id}/pictures/{number}", summary="An image that a job generated", response_class=Response)
    def picture(job_id: str, number: int) -> Response:
        pictures = service.job(job_id).pictures
        if not 0 <= number < len(pictures):
            raise NoSuchJobError(f"The job has {len(pictures)} images: there is no number {number}.")
        return Response(generated_image_bytes(pictures[number]), media_type="image/png")

    @router.post("/jobs/{job_id}/interrupt", summary="Interrupt a job; a run saves its state")
    def interrupt(job_id: str) -> Answer:
        service.interrupt(job_id)
        return service.job(job_id).as_dict()

    @router.post("/jobs/{job_id}/resume", summary="Resume an interrupted run", status_code=202)
    def resume(job_id: str) -> Answer:
        return service.resume(job_id).as_dict()

    @router.delete("/jobs/{job_id}", summary="Delete what was saved of a finished job")
    def forget(job_id: str) -> Answer:
        service.forget(job_id)
        return {"deleted": job_id}

    @router.get(
        "/runs", summary="The runs that ended before their last step, and those that another program is running"
    )
    def runs() -> Answer:
        return {"runs": [run.as_dict() for run in service.saved_runs()]}

    @router.post("/runs/{name}/resume", summary="Resume a run, by its id or a person's name", status_code=202)
    def resume_run(name: str) -> Answer:
        return service.resume_run(name).as_dict()

    @router.delete("/runs/{name}", summary="Discard a run, by its id or a person's name")
    def discard_run(name: str) -> Answer:
        return {"deleted": service.discard_run(name).as_dict()}

    @router.get("/basis", summary="The loaded checkpoint's celeb basis")
    @works
    def basis(components: int = 512) -> Answer:
        return {"bases": [one.as_dict() for one in service.model.summaries(components)]}

    @router.post(
        "/basis", summary="Build the celeb basis, as a job that can be followed and interrupted", status_code=202
    )
    def start_basis(body: BasisBody) -> Answer:
        return service.start_basis(body.components).as_dict()

    return router


async def _stream(job: Job, after: int) -> AsyncIterator[str]:
    """The events after the index ``after``, until the job has ended, or the server is to: an open stream would hold it."""
    silent = 0.0
    server_ends = ending()
    while not server_ends():
        finished = job.finished
        events = job.events_after(after)
        for event in events:
            after = event["index"]
            yield f"id: {after}\nevent: {event['event']}\ndata: {json_text(event)}\n\n"
        if finished and job.finished:
            yield f"event: End\ndata: {json_text({'state': job.state, 'error': job.error})}\n\n"
            return
        silent = 0.0 if events else silent + _POLL
        if silent >= _HEARTBEAT:
            silent = 0.0
            yield ": still there\n\n"
        await asyncio.sleep(_POLL)


def _content(file: UploadFile) -> bytes:
    content = file.file.read(MAX_FILE + 1)
    if len(content) > MAX_FILE:
        raise PhotoError(
            f"{(file.filename or 'The photo')[:60]!a} is larger than {MAX_FILE >> 20} MB: send a smaller one."
        )
    return content


def _json_object(text: str) -> Answer:
    try:
        value = parsed_json(text or "{}")
    except BodyError as error:
        raise SettingsError(
            f'The settings are not a JSON object: send something like {{"steps": 200}}. {error}'
        ) from None
    if not isinstance(value, dict):
        raise SettingsError('The settings are not a JSON object: send something like {"steps": 200}.')
    return value


# The people of the library


def people_router(service: Service) -> APIRouter:
    """``/people``: list, get, check, rename, notes, delete, export, import; ``/blend`` and its preview; ``/invent``."""
    router = APIRouter(
        route_class=ErrorHandlingRoute, default_response_class=AnswerResponse, tags=["Celeb Basis: people"]
    )

    @router.get("/people", summary="All people of the library")
    def list_people() -> Answer:
        return {"people": [person.as_dict() for person in service.people.entries()]}

    @router.get("/names/check", summary="Whether a person can have this name")
    def check_name(name: str = Query(...), replace: bool = False) -> Answer:
        problem = service.people.check_name(name, replace=replace)
        return {"name": name, "ok": problem is None, "problem": problem or ""}

    @router.get("/people/{name}", summary="One person")
    def get_person(name: str) -> Answer:
        return service.people.entry(name).as_dict()

    @router.get("/people/{name}/thumbnail", summary="One person's thumbnail", response_class=Response)
    def thumbnail(name: str) -> Response:
        picture = _thumbnail(service.people.entry(name))
        if picture is None:
            return Response(status_code=204)
        return Response(picture, media_type=_media_type(picture))

    @router.post("/people/{name}/rename", summary="Give a person another name")
    def rename(name: str, body: RenameBody) -> Answer:
        return service.people.rename(name, body.name).as_dict()

    @router.post("/people/{name}/notes", summary="Change the notes, or the note on the consent, in a person's file")
    def notes(name: str, body: NotesBody) -> Answer:
        return service.people.set_notes(name, body.notes, body.consent_note).as_dict()

    @router.get("/people/{name}/traces", summary="What deleting a person would delete")
    def traces(name: str, mixtures: bool = True) -> Answer:
        found = service.people.traces(name, mixtures=mixtures)
        return found.as_dict(service.workspace.paths.data) | {"text": found.sentence()}

    @router.delete("/people/{name}", summary="Delete a person with everything derived from them")
    def delete(name: str, mixtures: bool = Query(True, description="also delete people blended from them")) -> Answer:
        deleted = service.people.delete(name, mixtures=mixtures)
        return {"deleted": name, **deleted.as_dict(), "text": deleted.sentence()}

    @router.get("/people/{name}/export", summary="A person as a file")
    def export(
        name: str, layout: str = Query("identity", description="identity, webui, diffusers, comfyui, invokeai")
    ) -> Answer:
        files = service.import_export.export(name, layout)
        return {"layout": layout, "files": [{"name": file, "data": encoded(content)} for file, content in files]}

    @router.post("/people/{name}/embedding", summary="Put a person into the WebUI's embeddings folder")
    def export_to_host(name: str) -> Answer:
        return {"files": [path.name for path in service.import_export.to_host(name)]}

    @router.post("/people/import", summary="Import a file into the library (base64)")
    @body_limit(MAX_FILE * 3)
    def import_json(body: FileBody) -> Answer:
        data = decoded(body.data, body.file_name)
        basis = None if body.authors_basis is None else decoded(body.authors_basis, "celeb_basis.pt")
        return _imported(service, data, body.file_name, body.name, body.replace, basis)

    @router.post("/people/import/form", summary="Import a file into the library (multipart)")
    @body_limit(2 * MAX_FILE + (1 << 20))
    def import_form(
        file: UploadFile = File(...),  # noqa: B008 - fastapi's way
        name: str | None = Form(None),
        replace: bool = Form(False),
        authors_basis: UploadFile | None = File(None),  # noqa: B008
    ) -> Answer:
        basis = None if authors_basis is None else authors_basis.file.read()
        return _imported(service, file.file.read(), file.filename or "", name, replace, basis)

    @router.post("/blend", summary="Blend people into a new one")
    def blend(body: BlendBody) -> Answer:
        return service.blend(_blend(body, body.name, body.replace)).as_dict()

    @router.post("/blend/start", summary="Blend people, as a job that can be followed and interrupted", status_code=202)
    def start_blend(body: BlendBody) -> Answer:
        return service.start_blend(_blend(body, body.name, body.replace)).as_dict()

    @router.post("/blend/preview", summary="Generate images of a blend without saving it, as a job", status_code=202)
    def preview_blend(body: MixtureBody) -> Answer:
        request = PreviewRequest(_blend(body), body.prompt, body.count, body.seed, body.steps, body.guidance)
        return service.preview_blend(request).as_dict()

    @router.get("/invent/groups", summary="The groups of the list of names, to which invented people can lean")
    def invention_groups() -> Answer:
        return {"groups": list(service.inventing.groups())}

    @router.post("/invent", summary="Invent people who do not exist, with an image of each, as a job", status_code=202)
    def invent(body: InventBody) -> Answer:
        return service.invent(body.request()).as_dict()

    @router.post("/invent/save", summary="Add an invented person of a sheet to the library")
    def save_invented(body: SaveInventedBody) -> Answer:
        return service.save_invented(body.sheet, body.number, body.name, replace=body.replace).as_dict()

    return router


def _blend(body: BlendBody | MixtureBody, name: str = "", replace: bool = False) -> BlendRequest:
    if both := [one for one in body.steering if one.celebrity and one.group]:
        raise SettingsError(f"{both[0].celebrity!r} and {both[0].group!r} are one direction: give each a strength.")
    return BlendRequest(
        tuple((part.name, part.weight) for part in body.parts),
        name,
        toward_mean=body.toward_mean,
        toward_celebrity=body.toward_celebrity,
        celebrity_amount=body.celebrity_amount,
        keep_radius=body.keep_radius,
        replace=replace,
        celebrities=tuple((one.celebrity, one.strength) for one in body.steering if not one.group),
        groups=tuple((one.group, one.strength) for one in body.steering if one.group),
    )


def _imported(
    service: Service, data: bytes, file_name: str, name: str | None, replace: bool, authors_basis: bytes | None
) -> Answer:
    if max(len(data), len(authors_basis or b"")) > MAX_FILE:
        raise IdentityError(f"The file is larger than {MAX_FILE >> 20} MB, so it is no identity: choose another one.")
    people = service.import_export.import_file(
        data, file_name, name, replace_existing=replace, authors_basis=authors_basis
    )
    return {"people": [person.as_dict() for person in people]}


def _thumbnail(person: IdentityStatus) -> bytes | None:
    return None if person.identity is None else person.identity.metadata.thumbnail


def _media_type(picture: bytes) -> str:
    if picture.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if picture.startswith(b"\xff\xd8") else "image/webp"


# The host's application


def mount(app: FastAPI, service: Service, api_auth: str | None = None, flags: Any = None) -> None:
    """Add the API to ``app``, behind the same names and passwords as the host's own routes.

    Args:
        app: The host's application.
        service: The service behind the routes.
        api_auth: The host's ``--api-auth``: ``name:password`` pairs, separated by commas.
        flags: The host's parsed command line, which says what other sites may use it.
    """
    if getattr(app.state, "celeb_basis", False):
        return
    app.state.celeb_basis = True
    app.state.celeb_basis_access = access = Access.of(api_auth, flags)
    # The route itself asks for them, before it reads the body: this only describes them.
    guards: list[Any] = [Depends(HTTPBasic(auto_error=False))] if access.asks else []
    for router in (people_router(service), jobs_router(service)):
        app.include_router(router, prefix=PREFIX, dependencies=guards)
    app.openapi_schema = None  # made again, with these routes, when it is next requested
