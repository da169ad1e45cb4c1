"""The whole page: its sub-tabs in their order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import IdentityError, error_message
from celeb_basis.files import checked_name
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.components import gradio, on

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service


_log = logging.getLogger(__name__)


def create_page(service: Service) -> Any:
    """The host's ``Blocks`` for the tab. A part that cannot be built is told in its place, and the others appear."""
    with gradio.Blocks(analytics_enabled=False) as page:
        build_completion(service)
        with gradio.Tabs(elem_id="celeb_basis_tabs"):
            for label, build in _parts(service):
                with gradio.Tab(label, id=label, elem_id=f"celeb_basis_tab_{label.lower()}") as tab:
                    _build_or_tell(label, build, tab)
        gradio.HTML(markup.version(), elem_id="celeb_basis_version")
    return page


def _parts(service: Service) -> list[tuple[str, Callable[[Any], None]]]:
    def learn(tab: Any) -> None:
        from celeb_basis.webui.ui.learn import LearnTab

        LearnTab(service).build(tab)

    def people(tab: Any) -> None:
        from celeb_basis.webui.ui.people import PeopleTab

        PeopleTab(service).build(tab)

    def blend(tab: Any) -> None:
        from celeb_basis.webui.ui.blend import BlendTab

        BlendTab(service).build(tab)

    def evaluate(tab: Any) -> None:
        from celeb_basis.webui.ui.evaluate import EvaluateTab

        EvaluateTab(service).build(tab)

    def basis(tab: Any) -> None:
        from celeb_basis.webui.ui.basis import BasisTab

        BasisTab(service).build(tab)

    return [("Learn", learn), ("People", people), ("Blend", blend), ("Evaluate", evaluate), ("Basis", basis)]


def _build_or_tell(label: str, build: Callable[[Any], None], tab: Any) -> None:
    try:
        build(tab)
    except Exception as error:  # one broken part must not hide the others
        _log.exception("the sub-tab %s could not be built", label)
        gradio.HTML(markup.note(f"{label} cannot be shown. {error_message(error)}", "error"))


# FOLDED: Names for the script's completion of ``<`` in prompts, through a hidden component: it needs no API and no
# FOLDED: list of all.

MOST = 12
"""Names that are offered at once."""


def build_completion(service: Service) -> None:
    """Make the hidden components."""
    query = components.hidden_text("celeb_basis_query")
    answer = gradio.HTML("", elem_id="celeb_basis_names", elem_classes=["celeb-basis-hidden"])
    on(query.input, lambda asked: offered(service, str(asked or "")), [query], [answer], quiet=True)


def offered(service: Service, asked: str) -> str:
    """Names that begin with what was typed behind ``<``, then those that hold it, as HTML for the script.

    The query (a number, a colon, what was typed) comes back with the answer, so that the script can tell a late answer
    from the one that it waits for.
    """
    wanted = asked.partition(":")[2].casefold()
    names = [name for name in service.workspace.library.names() if wanted in name.casefold() and _usable(name)]
    first = [name for name in names if name.casefold().startswith(wanted)]
    others = [name for name in names if not name.casefold().startswith(wanted)]
    items = "".join(f"<i>{markup.text(name)}</i>" for name in (first + others)[:MOST])
    return f'<div data-query="{markup.text(asked)}">{items}</div>'


def _usable(name: str) -> bool:
    """Not a file that somebody put into the folder under a name that no prompt can hold."""
    try:
        return checked_name(name) == name
    except IdentityError:
        return False
