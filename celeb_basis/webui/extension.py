"""What happens when the host starts, and at every Reload UI: callbacks, each of which keeps its errors to itself.

Nothing heavy is imported here: torch, gradio and fastapi are the host's own and are there already; insightface comes with
the first photo.
"""

from __future__ import annotations

import functools
import html
import importlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from celeb_basis.webui.service import Service


# FOLDED: Registering callbacks with the host.


def add_callback(category: str, callback: Callable[..., Any], file: str) -> None:
    """Have the host call ``callback`` for ``category`` (``"ui_tabs"``, ``"app_started"``), as a part of the extension that
    ``file`` belongs to.

    Told the file, the host does not look for it in the stack, which takes it 50 ms for each callback.
    """
    callbacks: Any = importlib.import_module("modules.script_callbacks")
    try:
        known = callbacks.callback_map[f"callbacks_{category}"]
        callbacks.add_callback(known, callback, category=category, filename=file)
    except (AttributeError, KeyError, TypeError):  # a fork, or an older host
        name = {"on_reload": "on_before_reload"}.get(category, f"on_{category}")
        register = getattr(callbacks, name, None)
        if register is not None:  # SD.Next has no Train tab
            register(callback)


_log = logging.getLogger(__name__)

TITLE = "Celeb Basis"
TAB_ID = "celeb_basis"

_Result = TypeVar("_Result")

_OPEN_TAB = (
    "for (const button of document.querySelectorAll('#tabs > .tab-nav > button')) "
    f"if (button.textContent.trim() === '{TITLE}') button.click();"
)


@functools.cache
def service() -> Service:
    """The one service of this host. It outlives Reload UI, and with it a run that is under way."""
    from celeb_basis.hosts.detect import adapter
    from celeb_basis.names.lists import read_names, shipped_names
    from celeb_basis.prompts.registry import Registry
    from celeb_basis.webui.options import read_options
    from celeb_basis.webui.service import Service
    from celeb_basis.webui.tasks.basis import bases_cache

    shared = importlib.import_module("modules.shared")
    root = _data_folder()
    flag = getattr(shared.cmd_opts, "celeb_basis_dir", None)

    def options() -> Any:
        return read_options(shared.opts, shared.cmd_opts)

    def own_list() -> Path | None:
        chosen = options().names_file
        return root / Path(chosen).expanduser() if chosen else None

    def lists() -> list[Any]:
        own = own_list()
        return [*([read_names(own)] if own else []), shipped_names()]

    def lists_key() -> object:
        own = own_list()
        try:
            status = None if own is None else own.stat()
        except OSError:
            status = None
        return own, status and (status.st_mtime_ns, status.st_size)

    made = Service(adapter().program(), options, root=root, flag=flag)
    made.registry = Registry(made.paths.people, lists=lists, lists_key=lists_key, cache=bases_cache())
    return made


def _data_folder() -> Path:
    """The host's ``--data-dir``, which SD.Next knows under another name, and as nothing for its own folder."""
    internal = importlib.import_module("modules.paths_internal")
    if not hasattr(internal, "data_path"):
        internal = importlib.import_module("modules.paths")
    return Path(internal.data_path).absolute()


def register(script: str) -> None:
    """Register everything with the host. Called by the extension's script, the file ``script``, each time it is run."""
    wanted: tuple[tuple[str, Callable[..., Any], Callable[[], Any] | None], ...] = (
        ("ui_settings", _settings, None),
        ("before_ui", _words, None),
        ("before_ui", _cards, None),
        ("ui_tabs", _tab, list),
        ("ui_train_tabs", _train_tab, None),
        ("app_started", _api, None),
        ("on_reload", _reload, None),
    )
    for category, callback, otherwise in wanted:
        add_callback(category, _guarded(callback, otherwise), script)


def _settings() -> None:
    from celeb_basis.webui.options import DATA_FOLDER, add_settings

    add_settings()
    shared = importlib.import_module("modules.shared")
    shared.opts.onchange(DATA_FOLDER, _guarded(_follow_folder), call=False)


def _follow_folder() -> None:
    """Prompts and cards know the people of the folder that is chosen now."""
    service().follow_folder()


def _words() -> None:
    """``<name>`` in prompts, from before the first page on; a second time, nothing."""
    from celeb_basis.hosts.detect import adapter

    _follow_folder()
    registry = service().registry
    if registry is not None:
        adapter().install_tokens(registry)


def _cards() -> None:
    """Everybody as a card among the host's Extra Networks."""
    from celeb_basis.hosts.detect import adapter
    from celeb_basis.webui.cards import add_page
    from celeb_basis.webui.tasks.basis import bases_cache

    _words()  # the host calls the last callback first
    if (tokens := adapter().installed_tokens()) is not None:
        add_page(tokens, bases_cache())


def _tab() -> list[Any]:
    """The page; where it cannot be built, a page that says why."""
    try:
        page = importlib.import_module("celeb_basis.webui.ui.app")
        return [(page.create_page(service()), TITLE, TAB_ID)]
    except Exception as error:
        _log.exception("the page of Celeb Basis cannot be built")
        gradio = importlib.import_module("gradio")
        with gradio.Blocks(analytics_enabled=False) as blocks:
            gradio.HTML(
                f"<p>The page of {TITLE} cannot be built: {html.escape(f'{type(error).__name__}: {error}')}. Update the "
                "extension and restart the WebUI; with --api, the API under /celeb-basis/v1/ may work nevertheless.</p>"
            )
        return [(blocks, TITLE, TAB_ID)]


def _train_tab(_params: Any) -> None:
    """An entry in the host's Train tab that leads to the page."""
    gradio = importlib.import_module("gradio")
    with gradio.Tab(label=TITLE, id="celeb_basis_train"):
        gradio.HTML(
            "<p>A person from one photo, as a word in any prompt: learned on a page of its own.</p>"
            f'<button type="button" class="celeb-basis-go" onclick="{_OPEN_TAB}">Open {TITLE}</button>'
        )


def _api(_demo: Any, app: Any) -> None:
    """The routes, in the application that this start made: where the host serves its own API, and only there."""
    from celeb_basis.webui.api.routes import mount

    cmd_opts = importlib.import_module("modules.shared").cmd_opts
    if not (getattr(cmd_opts, "api", False) or getattr(cmd_opts, "nowebui", False)):
        return
    mount(app, service(), getattr(cmd_opts, "api_auth", None))


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
