"""The page: its sub-tabs in their order, and the names that complete ``<`` in prompts."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

from celeb_basis.errors import IdentityError, error_message
from celeb_basis.files import checked_name
from celeb_basis.webui.ui import components, markup
from celeb_basis.webui.ui.cards_refresh import create_cards_refresh
from celeb_basis.webui.ui.components import Changes, gradio, on

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MAX_COMPLETIONS = 12
"""Names that are offered at once."""

_SUB_TABS = ("Learn", "Invent", "People", "Blend", "Evaluate", "Basis")

_log = logging.getLogger(__name__)


def create_page(service: Service) -> Any:
    """Create the ``Blocks`` of the tab. In place of a sub-tab that cannot be built, the page shows why."""
    with gradio.Blocks(analytics_enabled=False) as page:
        _create_completion(service)
        create_cards_refresh()
        with gradio.Tabs(elem_id="celeb_basis_tabs"):
            for label in _SUB_TABS:
                with gradio.Tab(label, id=label, elem_id=f"celeb_basis_tab_{label.lower()}") as tab:
                    _create_sub_tab(label, service, tab)
        gradio.HTML(markup.version(), elem_id="celeb_basis_version")
    return page


def _create_sub_tab(label: str, service: Service, tab: Any) -> None:
    try:
        module = importlib.import_module(f"celeb_basis.webui.ui.{label.lower()}")
        getattr(module, f"{label}Tab")(service).build(tab)
    except Exception as error:  # one broken sub-tab must not hide the others
        _log.exception("the sub-tab %s could not be built", label)
        gradio.HTML(markup.note(f"{label} cannot be shown. {error_message(error)}", "error"))


def _create_completion(service: Service) -> None:
    """The hidden components through which the page's script completes ``<`` in prompts, without the API."""
    query = components.hidden_text("celeb_basis_query")
    answer = gradio.HTML("", elem_id="celeb_basis_names", elem_classes=["celeb-basis-hidden"])

    def complete(asked: str | None) -> Changes:
        return {answer: matching_names(service, str(asked or ""))}

    on(query.input, complete, [query], [answer], quiet=True)


def matching_names(service: Service, query: str) -> str:
    """Names that begin with what was typed after ``<``, then names that contain it, as HTML for the script.

    Args:
        service: Knows the people.
        query: A number, a colon, and what was typed. The answer holds the query, so that the script recognizes an answer
            that comes late.
    """
    typed = query.partition(":")[2].casefold()
    names = [name for name in service.workspace.library.names() if typed in name.casefold() and _is_usable(name)]
    names.sort(key=lambda name: not name.casefold().startswith(typed))
    return markup.completions(query, names[:MAX_COMPLETIONS])


def _is_usable(name: str) -> bool:
    """Whether prompts can hold the name; anyone can put a file with another name into the folder."""
    try:
        return checked_name(name) == name
    except IdentityError:
        return False
