"""*Places* on the host's own pages: a control under the prompt, an entry of the API, and parameters of the image."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from celeb_basis.errors import CelebBasisError, PlacesError, printable
from celeb_basis.prompts.places import DEFAULT_UNTIL, PLACES, PLACES_UNTIL, Places, parse_places, regions_of
from celeb_basis.prompts.syntax import bracketed_in

_log = logging.getLogger(__name__)

REGIONAL = ("regional prompter", "forge couple", "latent couple", "attention couple")
"""How the titles of other extensions' scripts begin that give regions prompts of their own; their first value is a switch."""

WITHOUT = "The image was generated without places."


def use_places_of_host(processing: Any, places: Places | None) -> None:
    """Have the running program draw ``processing``'s next images with ``places``."""
    from celeb_basis.hosts.detect import adapter

    adapter().use_places(processing, places)


def supported() -> bool:
    """Whether the running program's samplers can be reached."""
    from celeb_basis.hosts.detect import adapter

    return adapter().has_places


def known_name(name: str) -> bool:
    """Whether ``<name>`` in a prompt is a person of the library, or an embedding of the host's own."""
    from celeb_basis.hosts.detect import adapter

    program = adapter()
    tokens = program.installed_tokens()
    if tokens is None or tokens.registry.known(name) is not None:
        return True
    return name.casefold() in program.program().embedding_names()


class Placement:
    """What the extension's script does with the places of a job.

    Args:
        use: Has the program draw with places.
        known: Whether a name in angle brackets stands for anything.
    """

    def __init__(
        self,
        use: Callable[[Any, Places | None], None] = use_places_of_host,
        known: Callable[[str], bool] = known_name,
    ) -> None:
        self._use = use
        self._known = known

    def before_batch(self, processing: Any, text: object = "", until: object = DEFAULT_UNTIL) -> None:
        """Called before each batch, once the host has its prompts: places that cannot be used are left out with a comment.

        Args:
            processing: The host's processing object.
            text: The places as text; empty for none.
            until: Share of the steps in which they act.
        """
        places = None
        try:
            places = self._places(processing, text, until)
            self._use(processing, places)
        except CelebBasisError as error:
            places = None
            self._use(processing, None)
            sentence = f"{error} {WITHOUT}"
            _log.warning("%s", sentence)
            processing.comment(printable(sentence))
        parameters: dict[str, Any] = processing.extra_generation_params
        for key in (PLACES, PLACES_UNTIL):
            parameters.pop(key, None)
        if places is not None:
            parameters |= places.parameters()

    def _places(self, processing: Any, text: object, until: object) -> Places | None:
        if not str(text or "").strip():
            return None
        try:
            places = parse_places(str(text), float(until))  # type: ignore[arg-type]
        except (TypeError, ValueError) as error:
            raise PlacesError(
                f"Places cannot act until {str(until)[:40]!r} of the steps: give a share from 0 to 1."
            ) from error
        if places is None:
            return None
        if other := active_regional_script(processing):
            raise PlacesError(f"{other} is active, which divides the image already: switch it off to use places.")
        places.check_size(int(processing.width), int(processing.height))
        self._check_names(places, processing.prompts)
        return places

    def _check_names(self, places: Places, prompts: Iterable[str]) -> None:
        """Raise the error of the first prompt if no prompt names everyone; single prompts are reported when they are drawn."""
        refused: PlacesError | None = None
        for prompt in dict.fromkeys(prompts):
            try:
                regions_of(prompt, places)
            except PlacesError as error:
                refused = refused or error
                continue
            tags = {tag.partition(":")[0].strip().casefold() for tag in bracketed_in(prompt)}
            for one in places.placements:
                if one.name.casefold() in tags and not self._known(one.name):
                    raise PlacesError(
                        f"Nobody in your library is called {one.name}: learn or import the person, or correct the name."
                    )
            return
        if refused is not None:
            raise refused


def active_regional_script(processing: Any) -> str:
    """The title of another extension's script that is switched on for this job and divides the image; empty for none."""
    runner, arguments = getattr(processing, "scripts", None), getattr(processing, "script_args", None) or ()
    for script in getattr(runner, "alwayson_scripts", None) or ():
        title = str(script.title())
        first = getattr(script, "args_from", None)
        if not title.casefold().startswith(REGIONAL) or first is None or first == script.args_to:
            continue
        if first < len(arguments) and arguments[first] is True:
            return title
    return ""


def controls(tab: str) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """The control on a page of the host.

    Args:
        tab: ``"txt2img"`` or ``"img2img"``.

    Returns:
        The components whose values the script gets, and what restores each from the parameters of an image.
    """
    from celeb_basis.webui.ui.components import own

    gradio: Any = importlib.import_module("gradio")
    with gradio.Accordion("Places of people", open=False, elem_id=f"celeb_basis_places_{tab}"):
        text = gradio.Textbox(
            "",
            label="Who is where",
            placeholder="ada: left; ben: right",
            lines=1,
            max_lines=4,
            elem_id=f"celeb_basis_places_text_{tab}",
        )
        gradio.HTML("", elem_id=f"celeb_basis_places_canvas_{tab}", elem_classes=["celeb-basis-places"])
        until = gradio.Slider(
            0,
            1,
            DEFAULT_UNTIL,
            step=0.05,
            label="Until this share of the steps",
            elem_id=f"celeb_basis_places_until_{tab}",
        )
    for component in (text, until):
        own(component)
    return [text, until], [(text, _pasted_text), (until, _pasted_until)]


def _pasted_text(parameters: Mapping[str, Any]) -> str:
    """An image without places empties the field."""
    return str(parameters.get(PLACES) or "")


def _pasted_until(parameters: Mapping[str, Any]) -> float:
    try:
        return min(1.0, max(0.0, float(parameters.get(PLACES_UNTIL, DEFAULT_UNTIL))))
    except (TypeError, ValueError):
        return DEFAULT_UNTIL


def pasted_names() -> Sequence[str]:
    """Keys of the parameters that the host passes on with an image that is sent to another page."""
    return [PLACES, PLACES_UNTIL]
