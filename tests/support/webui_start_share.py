"""Run inside a WebUI: the seconds that the extension adds to the host's start, step by step, as JSON."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.webui_inside import parsed_arguments, start

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"


def main() -> None:
    arguments = parsed_arguments()
    start(arguments.checkpoint, arguments.data)
    import fastapi
    import gradio
    from modules import script_callbacks, script_loading, shared

    spent: dict[str, dict[str, float]] = {}

    def timed(step: str, work: Callable[[], Any]) -> Any:
        processor, clock = time.thread_time(), time.perf_counter()
        result = work()
        spent[step] = {"processor": time.thread_time() - processor, "clock": time.perf_counter() - clock}
        return result

    before = set(sys.modules)
    with contextlib.redirect_stdout(sys.stderr):
        ours = sorted(SCRIPTS.glob("*.py"))
        timed("scripts", lambda: [script_loading.load_module(str(script)) for script in ours])

        def callbacks(category: str) -> list[Callable[..., Any]]:
            known = script_callbacks.callback_map[f"callbacks_{category}"]
            return [one.callback for one in known if str(one.script).startswith(str(SCRIPTS))]

        timed("before_ui", lambda: [call() for call in callbacks("before_ui")])
        timed("settings", lambda: [call() for call in callbacks("ui_settings")])
        with gradio.Blocks(), gradio.Tabs():
            timed("train tab", lambda: [call(None) for call in callbacks("ui_train_tabs")])
            tabs = timed("tab", lambda: [tab for call in callbacks("ui_tabs") for tab in call()])
            with gradio.Tab("ours"):
                timed("tab's place", lambda: [page.render() for page, _, _ in tabs])
        app = fastapi.FastAPI()
        [call(None, app) for call in callbacks("app_started")]
        without = ours_of(app)
        shared.cmd_opts.api = True
        timed("API", lambda: [call(None, app) for call in callbacks("app_started")])
    heavy = {"insightface", "onnx", "onnxruntime", "diffusers", "ray", "open_clip", "matplotlib.pyplot", "sklearn"}
    print(
        json.dumps(
            {
                "spent": spent,
                "processor": sum(step["processor"] for step in spent.values()),
                "clock": sum(step["clock"] for step in spent.values()),
                "heavy": sorted(heavy & (set(sys.modules) - before)),
                "tabs": [title for _, title, _ in tabs],
                "routes": ours_of(app),
                "routes_without_api": without,
            }
        )
    )


def ours_of(app: Any) -> int:
    """Routes of ours in ``app``."""
    return sum("/celeb-basis/v1/" in str(getattr(route, "path", "")) for route in app.routes)


if __name__ == "__main__":
    main()
