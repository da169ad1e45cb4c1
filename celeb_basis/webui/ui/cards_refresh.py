"""The hidden buttons with which the page's script has the host's cards of people made again, in one event.

The host's own button makes the cards of every kind, in a chain of three events of its queue for each tab. A page that is
closed in the middle of such an event leaves a task behind, for which Reload UI waits. And the host makes its cards once: a
page that is opened later gets those of that time, without anyone who was learned while no page was open, or by the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celeb_basis.hosts.a1111.modules import host_module
from celeb_basis.webui.cards import PAGE
from celeb_basis.webui.ui import components
from celeb_basis.webui.ui.components import Changes, on


@dataclass(frozen=True)
class ShownCards:
    """The page of cards as one of the host's tabs shows it."""

    page: Any
    ui: Any
    """The host's record of all pages of cards of the tab."""
    tab: str
    index: int
    """The page's place in that record."""

    @property
    def component(self) -> Any:
        """The host's component that holds the HTML."""
        return self.ui.pages[self.index]

    def html(self) -> str:
        """The HTML with the people of this moment. The host gets it too, for browsers that open its page later."""
        content: str = self.page.create_html(self.tab)
        if self.index < len(self.ui.pages_contents):
            self.ui.pages_contents[self.index] = content
        return content

    def newer_html(self) -> str | None:
        """:meth:`html` if it differs from what the host gives to a page that is opened, else ``None``."""
        given = self.ui.pages_contents[self.index] if self.index < len(self.ui.pages_contents) else None
        content = self.html()
        return None if content == given else content


def shown_cards() -> tuple[ShownCards, ...]:
    """The page of cards in every tab of the page that the host is building; none in a fork without such pages."""
    pages = getattr(host_module("ui_extra_networks"), "extra_pages", ())
    ours = [page for page in pages if getattr(page, "name", "") == PAGE]
    return tuple(ShownCards(page, *place) for page in ours for place in getattr(page, "places", ()))


def create_cards_refresh() -> None:
    """Create the buttons, and connect them with the host's components."""
    if not (shown := shown_cards()):
        return

    def newer() -> Changes:
        made = [(one.component, one.newer_html()) for one in shown]
        return {component: content for component, content in made if content is not None}

    components_of_cards = [one.component for one in shown]
    again = components.hidden_button("celeb_basis_refresh_cards")
    on(again.click, lambda: {one.component: one.html() for one in shown}, [], components_of_cards, quiet=True)
    opened = components.hidden_button("celeb_basis_newer_cards")
    on(opened.click, newer, [], components_of_cards, quiet=True)
