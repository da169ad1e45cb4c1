"""The whole page: its sub-tabs in their order."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeb_basis.executors.failures import sentence_of
from celeb_basis.webui.tab import markup
from celeb_basis.webui.tab.gr import gradio

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service

_log = logging.getLogger(__name__)


def create_page(service: Service) -> Any:
    """The host's ``Blocks`` for the tab. A part that cannot be built is told in its place, and the others appear."""
    from celeb_basis.webui.tab.completion import build_completion

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
        from celeb_basis.webui.tab.learn import LearnTab

        LearnTab(service).build(tab)

    def people(tab: Any) -> None:
        from celeb_basis.webui.tab.people import PeopleTab

        PeopleTab(service).build(tab)

    def blend(tab: Any) -> None:
        from celeb_basis.webui.tab.blend import BlendTab

        BlendTab(service).build(tab)

    def evaluate(tab: Any) -> None:
        from celeb_basis.webui.tab.evaluate import EvaluateTab

        EvaluateTab(service).build(tab)

    def basis(tab: Any) -> None:
        from celeb_basis.webui.tab.basis import BasisTab

        BasisTab(service).build(tab)

    return [("Learn", learn), ("People", people), ("Blend", blend), ("Evaluate", evaluate), ("Basis", basis)]


def _build_or_tell(label: str, build: Callable[[Any], None], tab: Any) -> None:
    try:
        build(tab)
    except Exception as error:  # one broken part must not hide the others
        _log.exception("the sub-tab %s could not be built", label)
        gradio.HTML(markup.note(f"{label} cannot be shown. {sentence_of(error)}", "error"))
