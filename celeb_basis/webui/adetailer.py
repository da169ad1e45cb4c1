"""*Paint faces again with <ada>*: people for ADetailer, which finds faces in a finished image and inpaints them.

ADetailer is another extension (github.com/Bing-su/adetailer). Nothing else of the package knows its classes, arguments and
settings. Its arguments, as the host passes them to scripts, are a switch, *Skip img2img*, and a dictionary for each of its
tabs. They are filled for one job; what the user set on the page stays as it is.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from celeb_basis.errors import CelebBasisError, HostError, IdentityError
from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.identities.library import name_key
from celeb_basis.webui.infotext import Tokens, installed_tokens

_log = logging.getLogger(__name__)

LABEL = "Paint faces again with"
ABOUT = (
    "by ADetailer, at the end: one person for every face, or several for the faces from left to right; nobody: ADetailer is as "
    "you set it"
)

VERSIONS = "23.5 to 25.3"
"""The versions of ADetailer that have what is needed; 25.3.0 was run."""

_SCRIPT = "AfterDetailerScript"
_SORTING = "ad_bbox_sortby"
_LEFT_TO_RIGHT = "Position (left to right)"
_NO_MODEL = "None"
_NEXT_FACE = " [SEP] "
_LEAVE_FACE = "[SKIP]"
_NEXT = re.compile(r"\s*\[SEP\]\s*")
_FAILED = "No face was painted again"


# ADetailer


def is_installed() -> bool:
    """Whether the host has loaded ADetailer, in whichever order it loads its extensions' scripts."""
    return _loaded() is not None


def _loaded() -> Any | None:
    """The host's record of ADetailer's script: its class and its module."""
    known = getattr(host_module("scripts"), "scripts_data", ())
    return next((one for one in known if getattr(one.script_class, "__name__", "") == _SCRIPT), None)


@dataclass(frozen=True)
class Filled:
    """ADetailer's arguments for one job."""

    arguments: tuple[Any, ...]
    several: bool
    """Whether the faces get different people, so that their order counts."""
    messages: tuple[str, ...] = ()
    """What the user should know, as sentences."""


@dataclass(frozen=True)
class ADetailer:
    """What is used of the installed extension."""

    arguments_class: Any
    """Validates the arguments of one tab, given by keyword."""
    models: Sequence[str]
    """Names of its detectors, the one that it suggests first."""
    version: str = "of an unknown version"
    sortings: Sequence[str] = field(default=())
    """Orders of faces that its settings offer."""

    @classmethod
    def of(cls, module: Any) -> ADetailer:
        """Read from the module of its script.

        Raises:
            HostError: It is not the ADetailer that is known.
        """
        version = str(getattr(module, "__version__", cls.version))
        arguments_class, models = getattr(module, "ADetailerArgs", None), getattr(module, "model_mapping", None)
        if not callable(arguments_class) or not isinstance(models, Mapping):
            missing = "model_mapping" if callable(arguments_class) else "ADetailerArgs"
            raise _unknown(version, f"it has no {missing}")
        return cls(arguments_class, tuple(map(str, models)), version, tuple(getattr(module, "BBOX_SORTBY", ())))

    def fill(self, arguments: Sequence[Any], people: Sequence[str], named_in: Callable[[str], Sequence[str]]) -> Filled:
        """Fill its arguments so that it paints ``people``.

        The first of its tabs that looks for faces is used, with all of its settings; its prompt gets the person in front. A
        prompt that names people itself stays. ADetailer is switched on; where it was off, nothing but this tab runs.

        Args:
            arguments: As the host would pass them. They are not changed.
            people: Placeholder tokens, such as ``<ada>``: of every face, or of the faces from left to right.
            named_in: Answers the placeholder tokens in a prompt.

        Raises:
            HostError: The arguments are of another form than is known, or no tab or no detector is free.
        """
        places = [index for index, one in enumerate(arguments) if isinstance(one, Mapping)]
        if not places:
            raise _unknown(self.version, "its arguments are not the known ones")
        filled = [dict(one) if isinstance(one, Mapping) else one for one in arguments]
        was_on = arguments[0] if isinstance(arguments[0], bool) else True
        if isinstance(arguments[0], bool):
            filled[0] = True
        if not was_on:
            # It is on for this one tab: what else was set up in it was not asked for.
            filled[1:] = [False if isinstance(one, bool) else one for one in filled[1:]]
        chosen = self._tab(filled, places, was_on)
        for index in places:
            if index != chosen and not was_on:
                filled[index]["ad_model"] = _NO_MODEL
        tab = filled[chosen]
        before = str(tab.get("ad_prompt") or "")
        named = named_in(before)
        if not named:
            tab["ad_prompt"] = prompt_for(people, before)
        self._check(tab)
        others = {*named} - {*people}
        messages = () if not others else (self._kept(named, people),)
        return Filled(tuple(filled), len(named or people) > 1, messages)

    def _tab(self, arguments: list[Any], places: Sequence[int], was_on: bool) -> int:
        """The place of the tab to use: one that looks for faces, or else one without a task, which is given one."""
        looking = [index for index in places if _looks_for_faces(str(arguments[index].get("ad_model")))]
        enabled = [index for index in looking if arguments[index].get("ad_tab_enable", True)]
        free = [index for index in places if arguments[index].get("ad_model", _NO_MODEL) == _NO_MODEL]
        chosen = next(iter((*enabled, *looking, *free, *(() if was_on else places))), None)
        if chosen is None:
            raise HostError(
                "every tab of ADetailer looks for something other than faces. Choose a face detector in one of them, or "
                '"None" in one that is not needed.'
            )
        if chosen not in looking:
            if chosen not in free:  # its other settings are for what it looks for
                arguments[chosen] = {}
            model = next(filter(_looks_for_faces, self.models), None)
            if model is None:
                raise HostError(
                    "ADetailer has no detector for faces. Put one, such as face_yolov8n.pt, into the WebUI's folder "
                    "models/adetailer, and restart."
                )
            arguments[chosen]["ad_model"] = model
        if not arguments[chosen].get("ad_tab_enable", True):
            arguments[chosen]["ad_tab_enable"] = True
        return chosen

    def _check(self, tab: Mapping[str, Any]) -> None:
        """Have ADetailer validate the arguments of a tab.

        Raises:
            HostError: It does not accept or does not understand them.
        """
        try:
            made = self.arguments_class(**tab)
            understood = made.ad_prompt == tab["ad_prompt"] and made.ad_model == tab["ad_model"]
        except (ValueError, TypeError, AttributeError) as error:
            raise _unknown(self.version, f"it refuses its arguments ({type(error).__name__})") from error
        if not understood:
            raise _unknown(self.version, "it reads its arguments in another way")

    @staticmethod
    def _kept(named: Sequence[str], people: Sequence[str]) -> str:
        return (
            f"ADetailer's own prompt names {' and '.join(named)}, so faces were painted from that one and not with "
            f"{' and '.join(people)}: empty it to use the choice under *{LABEL}*."
        )


def _unknown(version: str, reason: str) -> HostError:
    return HostError(f"ADetailer {version} is not known here ({reason}). Versions {VERSIONS} work.")


def _looks_for_faces(model: str) -> bool:
    """Whether a detector, by its name, finds whole faces: ``face_yolov8n.pt``, ``mediapipe_face_full``."""
    name = model.casefold()
    return "face" in name and "eyes" not in name


def prompt_for(people: Sequence[str], own: str = "") -> str:
    """ADetailer's prompt for ``people``, with what the user wrote there behind each of them.

    ADetailer gives its last part to all further faces. So with several people, further faces are left as they are.

    Args:
        people: Placeholder tokens, such as ``<ada>``.
        own: The user's prompt, which may have parts for several faces itself.
    """
    parts = _NEXT.split(own.strip())
    texts = []
    for index in range(max(len(people), len(parts))):
        part = parts[min(index, len(parts) - 1)]
        if part.strip() == _LEAVE_FACE or (index >= len(people) > 1):
            texts.append(part)
        else:
            person = people[min(index, len(people) - 1)]
            texts.append(f"{person}, {part}" if part else person)
    if len(people) > 1 and len(parts) <= len(people):
        texts.append(_LEAVE_FACE)
    return _NEXT_FACE.join(texts)


# The job


def paint_faces_again(
    processing: Any, chosen: Any, tokens: Callable[[], Tokens | None] = installed_tokens
) -> tuple[str, ...]:
    """Have ADetailer paint the faces of a job's images with the ``chosen`` people. Without any, nothing is touched.

    Called before the host processes the job. Nothing here fails the job: what is wrong is said below its images.

    Args:
        processing: The host's processing object. It gets a copy of the arguments of its scripts.
        chosen: A name, or several from left to right, with or without brackets.
        tokens: Answers the names in the host's prompts.

    Returns:
        What was said below the images.
    """
    names = _names(chosen)
    if not names or getattr(processing, "_ad_inner", False):  # ADetailer generates with copies of the same job
        return ()
    messages: Sequence[str]
    try:
        messages = _fill(processing, names, tokens())
    except CelebBasisError as error:
        messages = (f"{_FAILED}: {error}",)
    except Exception:
        _log.exception("ADetailer's arguments cannot be filled")
        messages = (f"{_FAILED}: {_unknown('as installed', 'see the log')}",)
    for message in messages:
        _log.warning("%s", message)
        if (comment := getattr(processing, "comment", None)) is not None:  # older hosts have none
            comment(message)
    return tuple(messages)


def _fill(processing: Any, names: Sequence[str], tokens: Tokens | None) -> Sequence[str]:
    loaded = _loaded()
    running = getattr(getattr(processing, "scripts", None), "alwayson_scripts", None) or ()
    script = next((one for one in running if type(one).__name__ == _SCRIPT), None)
    if loaded is None or script is None:
        raise HostError("the extension ADetailer is not installed or not active. Install it and restart the WebUI.")
    if tokens is None:
        raise HostError("names in prompts are off in this WebUI.")
    people = [_usable(name, tokens) for name in names]
    adetailer = ADetailer.of(loaded.module)
    arguments = list(processing.script_args)
    place = slice(script.args_from, script.args_to)
    filled = adetailer.fill(
        arguments[place], people, lambda prompt: [one.placeholder_token for one in tokens.mentioned(prompt)]
    )
    arguments[place] = filled.arguments
    processing.script_args = type(processing.script_args)(arguments)
    return (*filled.messages, *(_sort_faces(processing, adetailer) if filled.several else ()))


def _sort_faces(processing: Any, adetailer: ADetailer) -> Sequence[str]:
    """Have the faces of this job sorted from left to right; the user's setting is put back by the host."""
    settings = dict(processing.override_settings or {})
    if _SORTING in settings:
        return ()
    restored = getattr(processing, "override_settings_restore_afterwards", True)
    if not restored or _LEFT_TO_RIGHT not in adetailer.sortings:
        return (
            f'The people may be painted in another order: choose "{_LEFT_TO_RIGHT}" in ADetailer\'s settings, under '
            "*Sort bounding boxes by*.",
        )
    processing.override_settings = {**settings, _SORTING: _LEFT_TO_RIGHT}
    return ()


def _usable(name: str, tokens: Tokens) -> str:
    """The placeholder token of a person whom the loaded checkpoint can draw.

    Raises:
        IdentityError: There is none of that name, or the checkpoint cannot.
    """
    found = next(iter(tokens.mentioned(f"<{name}>")), None)
    if found is None:
        raise IdentityError(f"there is no <{name}> in your library. Choose someone who is in it.")
    if not found.available:
        raise IdentityError(f"<{found.name}> cannot be used. {found.reason}")
    return found.placeholder_token


def _names(chosen: Any) -> list[str]:
    """The names of ``chosen``, each once: a text or several, from the page or the API."""
    given: Iterable[Any] = [chosen] if isinstance(chosen, str) else chosen if isinstance(chosen, (list, tuple)) else ()
    names: dict[str, str] = {}
    for one in given:
        if name := str(one or "").strip().strip("<>").strip():
            names.setdefault(name_key(name), name)
    return list(names.values())


# The page


def create_choice(elem_id: Callable[[str], str], tokens: Callable[[], Tokens | None] = installed_tokens) -> Any:
    """The box on the host's page, for its tabs txt2img and img2img.

    Beside it is a hidden button, which the page's script clicks when the page is loaded and when people have changed: the names
    in the box follow. (Gradio 3 shows a list that is already open as it was.)

    Args:
        elem_id: Answers the ids in the page: of ``"people"``, the box, and ``"refresh"``, the button.
        tokens: Answers the names in the host's prompts.
    """
    from celeb_basis.webui.ui.components import Changes, gradio, hidden_button, on, own, update

    choice = own(gradio.Dropdown([], value=[], multiselect=True, label=LABEL, info=ABOUT, elem_id=elem_id("people")))

    def show_people(chosen: Any) -> Changes:
        installed = tokens()
        names = () if installed is None else installed.registry.names()
        return {choice: update(choices=[*dict.fromkeys((*names, *_names(chosen)))])}

    on(hidden_button(elem_id("refresh")).click, show_people, [choice], [choice], quiet=True)
    return choice
