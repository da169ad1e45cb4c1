"""Routes about the people of the library."""

from __future__ import annotations

from fastapi import APIRouter, File, Form, Query, Response, UploadFile

from celeb_basis.errors import IdentityError
from celeb_basis.webui.api.border import BorderRoute, body_limit
from celeb_basis.webui.api.models import (
    MAX_FILE,
    Answer,
    BlendBody,
    FileBody,
    MixtureBody,
    NotesBody,
    RenameBody,
    decoded,
    encoded,
)
from celeb_basis.webui.mixing import BlendRequest, PreviewRequest
from celeb_basis.webui.requests import PersonEntry
from celeb_basis.webui.service import Service


def people_router(service: Service) -> APIRouter:
    """``/people``: list, get, check, rename, notes, delete, export, import; ``/blend`` and its preview."""
    router = APIRouter(route_class=BorderRoute, tags=["Celeb Basis: people"])

    @router.get("/people", summary="Everybody in the library")
    def list_people() -> Answer:
        return {"people": [person.as_dict() for person in service.people.entries()]}

    @router.get("/names/check", summary="Whether a name can be a person's")
    def check_name(name: str = Query(...), replace: bool = False) -> Answer:
        problem = service.people.check_name(name, replace=replace)
        return {"name": name, "ok": problem is None, "problem": problem or ""}

    @router.get("/people/{name}", summary="One person")
    def get_person(name: str) -> Answer:
        return service.people.entry(name).as_dict()

    @router.get("/people/{name}/thumbnail", summary="One person's picture", response_class=Response)
    def thumbnail(name: str) -> Response:
        picture = _thumbnail(service.people.entry(name))
        if picture is None:
            return Response(status_code=204)
        return Response(picture, media_type=_media_type(picture))

    @router.post("/people/{name}/rename", summary="Give a person another name")
    def rename(name: str, body: RenameBody) -> Answer:
        return service.people.rename(name, body.name).as_dict()

    @router.post(
        "/people/{name}/notes", summary="Put other notes, or another note on the consent, into a person's file"
    )
    def notes(name: str, body: NotesBody) -> Answer:
        return service.people.set_notes(name, body.notes, body.consent_note).as_dict()

    @router.get("/people/{name}/traces", summary="What deleting a person would delete")
    def traces(name: str, mixtures: bool = True) -> Answer:
        found = service.people.traces(name, mixtures=mixtures)
        return found.as_dict() | {"text": found.sentence()}

    @router.delete("/people/{name}", summary="Delete a person with everything derived from them")
    def delete(name: str, mixtures: bool = Query(True, description="people who were blended of them go too")) -> Answer:
        deleted = service.people.delete(name, mixtures=mixtures)
        return {"deleted": name, **deleted.as_dict(), "text": deleted.sentence()}

    @router.get("/people/{name}/export", summary="A person as a file")
    def export(
        name: str, layout: str = Query("identity", description="identity, webui, diffusers, comfyui, invokeai")
    ) -> Answer:
        files = service.exchange.export(name, layout)
        return {"layout": layout, "files": [{"name": file, "data": encoded(content)} for file, content in files]}

    @router.post("/people/{name}/embedding", summary="Put a person into the WebUI's embeddings folder")
    def export_to_host(name: str) -> Answer:
        return {"files": [path.name for path in service.exchange.to_host(name)]}

    @router.post("/people/import", summary="Take a file into the library (base64)")
    @body_limit(MAX_FILE * 3)
    def import_json(body: FileBody) -> Answer:
        data = decoded(body.data, body.file_name)
        basis = None if body.authors_basis is None else decoded(body.authors_basis, "celeb_basis.pt")
        return _imported(service, data, body.file_name, body.name, body.replace, basis)

    @router.post("/people/import/form", summary="Take a file into the library (multipart)")
    @body_limit(2 * MAX_FILE + (1 << 20))
    def import_form(
        file: UploadFile = File(...),  # noqa: B008 - fastapi's way
        name: str | None = Form(None),
        replace: bool = Form(False),
        authors_basis: UploadFile | None = File(None),  # noqa: B008
    ) -> Answer:
        basis = None if authors_basis is None else authors_basis.file.read()
        return _imported(service, file.file.read(), file.filename or "", name, replace, basis)

    @router.post("/blend", summary="Mix people into a new one")
    def blend(body: BlendBody) -> Answer:
        return service.blend(_blend(body, body.name, body.replace)).as_dict()

    @router.post("/blend/start", summary="The same as a job, which can be watched and interrupted", status_code=202)
    def start_blend(body: BlendBody) -> Answer:
        return service.start_blend(_blend(body, body.name, body.replace)).as_dict()

    @router.post("/blend/preview", summary="Draw a mixture without saving it, as a job", status_code=202)
    def preview_blend(body: MixtureBody) -> Answer:
        request = PreviewRequest(_blend(body), body.prompt, body.count, body.seed, body.steps, body.guidance)
        return service.preview_blend(request).as_dict()

    return router


def _blend(body: BlendBody | MixtureBody, name: str = "", replace: bool = False) -> BlendRequest:
    return BlendRequest(
        tuple((part.name, part.weight) for part in body.parts),
        name,
        toward_mean=body.toward_mean,
        toward_celebrity=body.toward_celebrity,
        celebrity_amount=body.celebrity_amount,
        keep_radius=body.keep_radius,
        replace=replace,
    )


def _imported(
    service: Service, data: bytes, file_name: str, name: str | None, replace: bool, authors_basis: bytes | None
) -> Answer:
    if max(len(data), len(authors_basis or b"")) > MAX_FILE:
        raise IdentityError(f"The file is larger than {MAX_FILE >> 20} MB, so it is no identity: choose another one.")
    people = service.exchange.import_file(data, file_name, name, replace_existing=replace, authors_basis=authors_basis)
    return {"people": [person.as_dict() for person in people]}


def _thumbnail(person: PersonEntry) -> bytes | None:
    return None if person.identity is None else person.identity.metadata.thumbnail


def _media_type(picture: bytes) -> str:
    if picture.startswith(b"\x89PNG"):
        return "image/png"
    return "image/jpeg" if picture.startswith(b"\xff\xd8") else "image/webp"
