"""Names for the script's completion of ``<`` in prompts, through a hidden component: it needs no API and no list of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from celeb_basis.errors import IdentityError
from celeb_basis.files import checked_name
from celeb_basis.webui.tab import gr, markup
from celeb_basis.webui.tab.gr import gradio, on

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

MOST = 12
"""Names that are offered at once."""


def build_completion(service: Service) -> None:
    """Make the hidden components."""
    query = gr.hidden_text("celeb_basis_query")
    answer = gradio.HTML("", elem_id="celeb_basis_names", elem_classes=["celeb-basis-hidden"])
    on(query.input, lambda asked: offered(service, str(asked or "")), [query], [answer], quiet=True)


def offered(service: Service, asked: str) -> str:
    """Names that begin with what was typed behind ``<``, then those that hold it, as HTML for the script.

    The query (a number, a colon, what was typed) comes back with the answer, so that the script can tell a late answer
    from the one that it waits for.
    """
    wanted = asked.partition(":")[2].casefold()
    names = [name for name in service.library.names() if wanted in name.casefold() and _usable(name)]
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
