"""The extension's callbacks in the host: at its start, and at every Reload UI. Each keeps its errors to itself.

Nothing heavy is imported here. What needs torch, gradio or fastapi is imported by the callbacks, when the host has them
loaded already; insightface comes with the first photo.
"""

from __future__ import annotations

import functools
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from markupsafe import Markup

from celeb_basis.hosts.a1111.modules import host_module

if TYPE_CHECKING:
    from celeb_basis.webui.options import Options
    from celeb_basis.webui.service import Service

_log = logging.getLogger(__name__)

TITLE = "Celeb Basis"
TAB_ID = "celeb_basis"

_Result = TypeVar("_Result")

_OPEN_TAB = (
    "for (const button of document.querySelectorAll('#tabs > .tab-nav > button')) "
    f"if (button.textContent.trim() === '{TITLE}') button.click();"
)


def register(script: str) -> None:
    """Register all callbacks with the host.

    Args:
        script: The extension's script, which calls this each time the host runs it.
    """
    callbacks: tuple[tuple[str, Callable[..., Any], Callable[[], Any] | None], ...] = (
        ("ui_settings", _settings, None),
        ("before_ui", _names_in_prompts, None),
        ("before_ui", _cards, None),
        ("ui_tabs", _tab, list),
        ("ui_train_tabs", _train_tab, None),
        ("app_started", _server, None),
        ("app_started", _api, None),
        ("on_reload", _reload, None),
    )
    for category, callback, otherwise in callbacks:
        add_callback(category, _guarded(callback, otherwise), script)


def add_callback(category: str, callback: Callable[..., Any], file: str) -> None:
    """Have the host call ``callback`` for ``category``, such as ``"ui_tabs"`` or ``"app_started"``.

    Args:
        category: What the callback is for.
        callback: The function.
        file: A file of the extension that the callback belongs to. Without it the host would search the stack for one,
            which takes it 50 ms for each callback.
    """
    callbacks: Any = host_module("script_callbacks")
    try:
        known = callbacks.callback_map[f"callbacks_{category}"]
        callbacks.add_callback(known, callback, category=category, filename=file)
    except (AttributeError, KeyError, TypeError):  # a fork, or an older host
        name = {"on_reload": "on_before_reload"}.get(category, f"on_{category}")
        add = getattr(callbacks, name, None)
        if add is not None:  # SD.Next has no Train tab
            add(callback)


@functools.cache
def service() -> Service:
    """The one service of this host. It outlives Reload UI, and with it a run that is under way."""
    from celeb_basis.files import bases_cache
    from celeb_basis.hosts.detect import adapter
    from celeb_basis.prompts.registry import Registry
    from celeb_basis.webui.options import Workspace, read_options
    from celeb_basis.webui.service import Service

    shared = host_module("shared")

    def options() -> Options:
        return read_options(shared.opts, shared.cmd_opts)

    workspace = Workspace(options, _host_data_folder(), getattr(shared.cmd_opts, "celeb_basis_dir", None))
    workspace.registry = Registry(
        workspace.paths.people, lists=workspace.known_names, lists_key=workspace.known_names_key, cache=bases_cache()
    )
    return Service(adapter().program(), workspace)


def _host_data_folder() -> Path:
    """The host's ``--data-dir``; SD.Next has it in another module, and empty for its own folder."""
    internal = host_module("paths_internal")
    if not hasattr(internal, "data_path"):
        internal = host_module("paths")
    return Path(internal.data_path).absolute()


def _settings() -> None:
    """The section on the settings page."""
    from celeb_basis.webui.options import DATA_FOLDER, add_settings

    add_settings()
    host_module("shared").opts.onchange(DATA_FOLDER, _guarded(_follow_folder), call=False)


def _follow_folder() -> None:
    """Let prompts and cards read the library that is chosen now."""
    service().workspace.follow_folder()


def _names_in_prompts() -> None:
    """``<name>`` in prompts, from before the first page on. A second call changes nothing."""
    from celeb_basis.hosts.detect import adapter

    _follow_folder()
    registry = service().workspace.registry
    if registry is not None:
        adapter().install_tokens(registry)


def _cards() -> None:
    """A card for each identity among the host's Extra Networks."""
    from celeb_basis.files import bases_cache
    from celeb_basis.hosts.detect import adapter
    from celeb_basis.webui.cards import add_page

    _names_in_prompts()  # the host calls the last callback first
    if (tokens := adapter().installed_tokens()) is not None:
        add_page(tokens, bases_cache())


def _tab() -> list[Any]:
    """The page; where it cannot be built, a page that says why."""
    gradio: Any = importlib.import_module("gradio")

    try:
        from celeb_basis.webui.ui.app import create_page

        return [(create_page(service()), TITLE, TAB_ID)]
    except Exception as error:
        _log.exception("the page of Celeb Basis cannot be built")
        with gradio.Blocks(analytics_enabled=False) as blocks:
            sentence = Markup(
                "<p>The page of {} cannot be built: {}. Update the extension and restart the WebUI; with --api, the API under "
                "/celeb-basis/v1/ may still work.</p>"
            )
            gradio.HTML(str(sentence.format(TITLE, f"{type(error).__name__}: {error}")))
        return [(blocks, TITLE, TAB_ID)]


def _train_tab(_params: Any) -> None:
    """An entry in the host's Train tab that leads to the page."""
    gradio: Any = importlib.import_module("gradio")

    with gradio.Tab(label=TITLE, id="celeb_basis_train"):
        content = Markup(
            "<p>Learn a person from one photo, and name them in any prompt: on a page of its own.</p>"
            '<button type="button" class="celeb-basis-go" onclick="{}">Open {}</button>'
        )
        gradio.HTML(str(content.format(_OPEN_TAB, TITLE)))


def _server(demo: Any, app: Any) -> None:
    """Reload UI comes back, whatever is open in a browser; files of people are not served; other sites' pages do nothing."""
    from celeb_basis.webui.api.access import Access
    from celeb_basis.webui.host_server import deny_own_files, limit_shutdown, refuse_other_sites

    limit_shutdown(demo)
    refuse_other_sites(demo, app, Access.of(None, host_module("shared").cmd_opts))
    deny_own_files(app, lambda: service().workspace.paths.private)


def _api(_demo: Any, app: Any) -> None:
    """The routes, in the application that this start made: only where the host serves its own API."""
    from celeb_basis.webui.api.routes import mount
    from celeb_basis.webui.host_server import list_people_among_embeddings

    cmd_opts = host_module("shared").cmd_opts
    if not (getattr(cmd_opts, "api", False) or getattr(cmd_opts, "nowebui", False)):
        return
    mount(app, service(), getattr(cmd_opts, "api_auth", None), cmd_opts)
    list_people_among_embeddings(app, service().people.entries)


def _reload() -> None:
    """Reload UI: a run that it interrupts says so."""
    service().reload_began()


def _guarded(callback: Callable[..., _Result], otherwise: Callable[[], Any] | None = None) -> Callable[..., Any]:
    """``callback`` whose errors go to the log: the host starts whatever is wrong here."""

    @functools.wraps(callback)
    def call(*arguments: Any) -> Any:
        try:
            return callback(*arguments)
        except Exception:
            _log.exception("Celeb Basis: %s failed", callback.__name__)
            return otherwise() if otherwise is not None else None

    return call
