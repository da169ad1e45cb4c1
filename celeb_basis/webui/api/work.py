"""Routes about photos, learning and everything else that takes its time."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

from fastapi import APIRouter, File, Form, Header, Query, Response, UploadFile
from fastapi.responses import StreamingResponse

from celeb_basis import __version__
from celeb_basis.errors import HostError, PhotoError, SettingsError
from celeb_basis.identities.identity import FORMAT_VERSION
from celeb_basis.provenance import drawn_bytes
from celeb_basis.webui.api.border import BorderRoute, body_limit
from celeb_basis.webui.api.models import (
    LICENCE,
    MAX_FILE,
    Answer,
    BasisBody,
    EstimateBody,
    EvaluateBody,
    FaceModelsBody,
    FacesBody,
    LearnBody,
    decoded,
)
from celeb_basis.webui.jobs import Job
from celeb_basis.webui.requests import (
    EvaluateRequest,
    FoundFaces,
    LearnRequest,
    NoSuchJobError,
    PersonToLearn,
    PhotoToLearn,
)
from celeb_basis.webui.service import Service

LEARN_LIMIT = 256 << 20
"""Bytes of all photos of one run, as they are sent."""

_POLL = 0.2
_HEARTBEAT = 15.0
"""Seconds; proxies cut connections that stay silent for a minute."""


def work_router(service: Service) -> APIRouter:
    """``/version``, ``/settings``, ``/face-models``, ``/faces``, ``/learn``, ``/evaluate``, ``/jobs`` and ``/basis``."""
    router = APIRouter(route_class=BorderRoute, tags=["Celeb Basis: learning"])

    @router.get("/version", summary="Which version of the extension this is, and of the identity files that it writes")
    def version() -> Answer:
        return {"version": __version__, "identity_format": FORMAT_VERSION}

    @router.get("/settings", summary="Presets, and every setting's default, range and help")
    def settings() -> Answer:
        return service.settings_table() | {"face_models": service.faces.status()}

    @router.get("/face-models", summary="The face models: whether they are here, and their licence")
    def face_models() -> Answer:
        return service.faces.status()

    @router.post("/face-models", summary="Download them, as a job, once their licence is agreed to", status_code=202)
    def get_face_models(body: FaceModelsBody) -> Answer:
        return service.start_faces(accept_licence=body.accept_licence).as_dict()

    @router.post("/faces", summary="Find the faces of a photo (base64)")
    @body_limit(MAX_FILE * 3 // 2)
    def faces_json(body: FacesBody) -> Answer:
        service.check_licence(body.accept_licence)
        return service.detect(decoded(body.data, body.name), body.name).as_dict()

    @router.post("/faces/form", summary="Find the faces of a photo (multipart)")
    @body_limit(MAX_FILE + (1 << 20))
    def faces_form(
        photo: UploadFile = File(...),  # noqa: B008
        accept_licence: bool = Form(False, description=LICENCE),
    ) -> Answer:
        service.check_licence(accept_licence)
        found: FoundFaces = service.detect(_content(photo), photo.filename or "the photo")
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
        preset: str = Form("balanced"),
        settings: str = Form("{}", description="changes to the preset, as a JSON object"),
        consent: bool = Form(False),
        consent_note: str = Form(""),
        notes: str = Form(""),
        replace: bool = Form(False),
        accept_licence: bool = Form(False, description=LICENCE),
    ) -> Answer:
        files = tuple(PhotoToLearn(_content(one), one.filename or "photo", face) for one in photos)
        request = LearnRequest(
            (PersonToLearn(name, files),),
            preset=preset,
            settings=_json_object(settings),
            consent=consent,
            consent_note=consent_note,
            notes=notes,
            replace=replace,
            accept_licence=accept_licence,
        )
        return service.start_learning(request).as_dict()

    @router.post("/evaluate", summary="Draw a grid of prompts and judge it", status_code=202)
    @body_limit(LEARN_LIMIT * 3 // 2)
    def evaluate(body: EvaluateBody) -> Answer:
        photos = tuple(PhotoToLearn(decoded(one.data, one.name), one.name, one.face) for one in body.photos)
        numbers = (body.prompts, body.seeds, body.seed, body.steps, body.guidance)
        request = EvaluateRequest(body.name, photos, tuple(body.kinds), *numbers, accept_licence=body.accept_licence)
        return service.evaluate(request).as_dict()

    @router.get("/jobs", summary="All jobs, newest first")
    def jobs() -> Answer:
        return {"jobs": [job.as_dict() for job in service.jobs()]}

    @router.get("/jobs/{job_id}", summary="Where a job stands")
    def job(
        job_id: str, after: int | None = Query(None, description="also give the events after this index; -1: all")
    ) -> Answer:
        found = service.job(job_id)
        return found.as_dict() | ({} if after is None else {"events": found.events_after(after)})

    @router.get("/jobs/{job_id}/events", summary="What happens, as server-sent events", response_class=Response)
    def events(job_id: str, after: int = -1, last_event_id: str | None = Header(None)) -> StreamingResponse:
        start = int(last_event_id) if last_event_id and last_event_id.isdigit() else after
        headers = {
            "Cache-Control": "no-cache",
            "X-Accel-Buffering": "no",
            # The host compresses answers, and would hold events back until a block is full.
            "Content-Encoding": "identity",
        }
        return StreamingResponse(_stream(service.job(job_id), start), media_type="text/event-stream", headers=headers)

    @router.get("/jobs/{job_id}/pictures/{number}", summary="A picture that a job drew", response_class=Response)
    def picture(job_id: str, number: int) -> Response:
        pictures = service.job(job_id).pictures
        if not 0 <= number < len(pictures):
            raise NoSuchJobError(f"The job has {len(pictures)} pictures: there is no number {number}.")
        return Response(drawn_bytes(pictures[number]), media_type="image/png")

    @router.post("/jobs/{job_id}/interrupt", summary="End a job; a run keeps its state")
    def interrupt(job_id: str) -> Answer:
        service.interrupt(job_id)
        return service.job(job_id).as_dict()

    @router.post("/jobs/{job_id}/resume", summary="Go on with an interrupted run", status_code=202)
    def resume(job_id: str) -> Answer:
        return service.resume(job_id).as_dict()

    @router.delete("/jobs/{job_id}", summary="Throw away what was kept of an ended job")
    def forget(job_id: str) -> Answer:
        service.forget(job_id)
        return {"deleted": job_id}

    @router.get("/basis", summary="The loaded checkpoint's celeb basis")
    def basis(components: int = 512) -> Answer:
        return {"bases": [one.as_dict() for one in service.basis_summary(components)]}

    @router.post("/basis", summary="Build it, as a job that can be watched and interrupted", status_code=202)
    def start_basis(body: BasisBody) -> Answer:
        return service.start_basis(body.components).as_dict()

    return router


async def _stream(job: Job, after: int) -> AsyncIterator[str]:
    """Events from ``after`` on until the job has ended."""
    silent = 0.0
    while True:
        finished = job.finished
        events = job.events_after(after)
        for event in events:
            after = event["index"]
            yield f"id: {after}\nevent: {event['event']}\ndata: {json.dumps(event, ensure_ascii=False)}\n\n"
        if finished and job.finished:
            yield f"event: End\ndata: {json.dumps({'state': job.state, 'error': job.error}, ensure_ascii=False)}\n\n"
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
        value = json.loads(text or "{}")
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise SettingsError('The settings are not a JSON object: send something like {"steps": 200}.')
    return value
