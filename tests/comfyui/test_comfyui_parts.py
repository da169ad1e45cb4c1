"""What the custom nodes consist of, without a ComfyUI: the entry point, the installer, the shipped workflows, the graph."""

from __future__ import annotations

import importlib.util
import json
import re
import runpy
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from celeb_basis.errors import (
    CelebBasisError,
    HostError,
    IdentityError,
    NotFiniteError,
    OutOfMemoryError,
    WrongModelError,
)
from celeb_basis.events import StepDone
from celeb_basis.hosts.comfyui import app, modules, people
from celeb_basis.hosts.comfyui.host import _with_words as with_words
from celeb_basis.hosts.comfyui.modules import UNKNOWN, Source, source_of
from celeb_basis.identities.generated_files import GeneratedFiles
from celeb_basis.identities.library import Library
from celeb_basis.provenance import KEY, sentence, workflow_sentence

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = sorted((ROOT / "comfyui" / "workflows").glob("*.api.json"))


def test_the_entry_point_does_nothing_outside_of_comfyui(tmp_path: Path) -> None:
    script = f"""
import importlib.util, sys
before = set(sys.modules)
spec = importlib.util.spec_from_file_location("anything", {str(ROOT / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
sys.modules["anything"] = module
spec.loader.exec_module(module)
print(module.NODE_CLASS_MAPPINGS, sorted(name for name in set(sys.modules) - before if "celeb" in name or "torch" in name))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "{} []"


def test_the_package_of_this_folder_is_loaded_and_no_other(tmp_path: Path) -> None:
    script = f"""
import importlib.util, sys
spec = importlib.util.spec_from_file_location("nodes_of", {str(ROOT / "comfyui" / "__init__.py")!r})
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
module.load_package()
from celeb_basis.settings import PRESETS
import celeb_basis
print(celeb_basis.__file__, {str(ROOT)!r} in sys.path)
module.load_package()
celeb_basis.__file__ = "/elsewhere/celeb_basis/__init__.py"
try:
    module.load_package()
except ImportError as error:
    print(error)
"""
    # Without anything else on the path, such as this repository's own entry in an environment for development.
    command = [sys.executable, "-I", "-S", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    first, second = done.stdout.splitlines()
    assert first == f"{ROOT / 'celeb_basis' / '__init__.py'} False", (
        "tests and scripts of this repository stay out of the way"
    )
    assert "from /elsewhere/celeb_basis/__init__.py: keep one of them" in second


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_a_shipped_workflow_is_the_same_in_both_forms(path: Path) -> None:
    """The form for the page holds the nodes, links and values of the one for the API."""
    api = json.loads(path.read_text("utf-8"))
    page = json.loads(path.with_name(path.name.replace(".api", "")).read_text("utf-8"))
    nodes = {str(node["id"]): node for node in page["nodes"]}
    links = {link[0]: link for link in page["links"]}
    assert {key for key in nodes if nodes[key]["type"] != "MarkdownNote"} == set(api)
    for key, node in api.items():
        assert nodes[key]["type"] == node["class_type"]
        inputs = {one["name"]: one for one in nodes[key]["inputs"]}
        values = list(nodes[key]["widgets_values"])
        for name, value in node["inputs"].items():
            if isinstance(value, list):
                _, source, slot, target, place, _ = links[inputs[name]["link"]]
                assert [str(source), slot] == value
                assert (str(target), nodes[key]["inputs"][place]["name"]) == (key, name)
            else:
                assert value in values, (name, value)
    learns = [node["inputs"] for node in api.values() if node["class_type"] == "CelebBasisLearnPerson"]
    assert all(one["consent"] is False and one["accept_face_license"] is False for one in learns)


def test_the_models_source_is_read_off_the_workflow(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    paths = types.SimpleNamespace(get_full_path=lambda folder, name: str(tmp_path / folder / name))
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    loader = {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sub\\some.v2.safetensors"}}
    lora = {"class_type": "LoraLoader", "inputs": {"lora_name": "x", "model": ["1", 0], "clip": ["1", 1]}}
    unet = {"class_type": "UNETLoader", "inputs": {"unet_name": "flux.safetensors"}}
    merge = {"class_type": "ModelMergeSimple", "inputs": {"model1": ["1", 0], "model2": ["1", 0]}}
    circle = {"class_type": "X", "inputs": {"model": ["6", 0]}}
    prompt = {"1": loader, "2": lora, "3": unet, "4": merge, "6": circle}

    def found(place: Any, name: str = "model") -> Source:
        return source_of({**prompt, "9": {"class_type": "ours", "inputs": {name: place}}}, "9", name)

    file = tmp_path / "checkpoints" / "sub\\some.v2.safetensors"
    assert found(["1", 0]) == Source("some.v2", file)
    with_lora = found(["2", 1], "clip")
    assert (with_lora.name, with_lora.file) == ("some.v2", file)
    assert json.loads(with_lora.changes[0]) == ["LoraLoader", {"lora_name": "x"}]
    assert found(["3", 0]) == Source("flux", None)
    for place in (["4", 0], ["6", 0], ["7", 0], "text", None):
        assert found(place) == UNKNOWN
    assert source_of(None, None, "model") == UNKNOWN


def test_names_become_words_between_spaces() -> None:
    numbers = {"<ada>": 0, "<ada b>": 1}
    word = "embedding:celeb-basis-person-"
    assert with_words("(<ada>'s hat:1.2), <ada b>", numbers) == f"( {word}0 's hat:1.2),  {word}1 "
    assert with_words("<ada:0.8> <lora:x:1> <eve:2>", numbers) == f"( {word}0 :0.8) <lora:x:1> <eve:2>"
    assert with_words("no one", {}) == "no one"


def test_a_run_is_saved_before_cancel_ends_its_node(monkeypatch: pytest.MonkeyPatch) -> None:
    """ComfyUI's progress bar raises as soon as Cancel was pressed, once."""

    class Interrupted(BaseException):
        pass

    pressed: list[bool] = []

    class Bar:
        def __init__(self, *_: Any, **__: Any) -> None: ...

        def update_absolute(self, *_: Any) -> None:
            if pressed and pressed.pop():
                raise Interrupted

    memory = types.SimpleNamespace(
        InterruptProcessingException=Interrupted,
        processing_interrupted=lambda: any(pressed),
        throw_exception_if_processing_interrupted=lambda: None,
    )
    monkeypatch.setitem(sys.modules, "comfy.model_management", memory)
    monkeypatch.setitem(sys.modules, "comfy.utils", types.SimpleNamespace(ProgressBar=Bar))
    monkeypatch.setitem(sys.modules, "server", types.SimpleNamespace(PromptServer=types.SimpleNamespace(instance=None)))
    progress = app.NodeProgress("3")
    step = StepDone(step=1, total=9, loss=0.1, average_loss=0.1, people=None, seconds_left=None)
    progress.show("ada", step)
    assert not progress.interrupted()
    pressed.append(True)
    progress.show("ada", step)
    assert progress.interrupted()
    with pytest.raises(Interrupted):
        progress.stop()


def test_a_damaged_run_is_begun_again(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "library", lambda: Library(tmp_path / "people"))
    state = tmp_path / "unfinished" / "ada-1-2.safetensors"
    state.parent.mkdir()
    assert app._saved_run(state, "ada") is None
    state.write_bytes(b"damaged")
    assert app._saved_run(state, "ada") is None
    assert not state.exists()


def test_a_run_ends_with_all_that_was_saved_of_the_same_person(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(app, "library", lambda: Library(tmp_path / "people"))
    runs = [tmp_path / f"{name}.safetensors" for name in ("ada-1-2", "ada-1-3", "ada-2-2", "ada-1", "adam-1-2")]
    for path in runs:
        path.touch()
    record = GeneratedFiles(tmp_path / "people")
    record.note(runs, "unfinished run", ["ada"], changes=True)
    app._delete_runs(runs[0])
    assert sorted(tmp_path.glob("*.safetensors")) == sorted(runs[2:])
    assert {one.path for one in record.all()} == set(runs[2:])


@pytest.mark.parametrize("kind", [OutOfMemoryError, NotFiniteError])
def test_a_failed_run_says_how_to_go_on(kind: type[CelebBasisError], tmp_path: Path) -> None:
    """Numbers that overflowed would only do so again, so that such a run begins again."""
    state = tmp_path / "ada-1-2.safetensors"
    state.touch()
    with pytest.raises(kind) as raised, app._explained_failure(state):
        raise kind(f"It went wrong. To go on from there, resume {state}.")
    if kind is NotFiniteError:
        assert str(raised.value) == "It went wrong."
    else:
        assert str(raised.value) == "It went wrong. To go on from there, run the node again with the same inputs."
    assert state.exists() == (kind is not NotFiniteError)


def node(kind: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def named(text: Any, **inputs: Any) -> dict[str, Any]:
    """A workflow that saves one image of who is named in a text."""
    return {
        "1": node("CelebBasisLoadPerson", person="ada"),
        "2": node("CelebBasisInventPerson", name=" ", seed=4),
        "3": node("CelebBasisPersonToPrompt", text=text, **inputs),
        "4": node("KSampler", positive=["3", 0], seed=1),
        "5": node("SaveImage", images=["4", 0]),
    }


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (named("a photo of <ada> and <Bea>"), sentence(["<Bea>", "<ada>"])),
        (named("a photo of <bea:0.8> <lora:ada:1>"), sentence(["<Bea>"])),
        (named("a photo of <person>", person=["1", 0]), sentence(["<ada>"])),
        (named("a photo of <ada>", person=["1", 0]), sentence(["<ada>"])),
        (named("a photo of <person>", person=["2", 0]), sentence([])),
        (named("a photo of a tree, <eve>"), ""),
        (named(["6", 0]) | {"6": node("Text", value="two of <ada>")}, sentence(["<ada>"])),
        (named(["6", 0]) | {"6": node("Wildcards", file="people.txt")}, sentence([])),
        (named("<ada>") | {"6": node("CelebBasisLearnPerson", name="ada")}, sentence(["<ada>"])),
        (named("<ada>") | {"6": node("PreviewImage", images=["7", 0])}, workflow_sentence(["<ada>"])),
        ({"3": node("CLIPTextEncode", text="<ada>"), "5": node("SaveImage", images=["3", 0])}, ""),
        ({"1": "nonsense", "2": node("X", model=["2", 0])}, ""),
    ],
)
def test_files_of_a_workflow_say_whom_it_generates(
    prompt: dict[str, Any], expected: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("ada", "Bea"):
        (tmp_path / f"{name}.safetensors").touch()
    monkeypatch.setattr(people, "library", lambda: Library(tmp_path))
    assert people.mark_of(prompt) == expected
    request = {"prompt": prompt, "client_id": "x", "extra_data": {"extra_pnginfo": {"workflow": {"id": 1}}}}
    marked = people.with_mark(request)
    assert marked["extra_data"]["extra_pnginfo"] == {"workflow": {"id": 1}} | ({KEY: expected} if expected else {})
    assert request["extra_data"] == {"extra_pnginfo": {"workflow": {"id": 1}}}, "the page's own stays as it is"
    assert people.with_mark({"prompt": prompt}) == {"prompt": prompt} | (
        {"extra_data": {"extra_pnginfo": {KEY: expected}}} if expected else {}
    )


@pytest.mark.parametrize("request_", [{}, {"prompt": []}, {"prompt": named("<ada>"), "extra_data": ["x"]}])
def test_a_request_of_another_kind_is_passed_on(request_: dict[str, Any]) -> None:
    assert people.with_mark(request_) is request_


def test_people_can_lean_to_the_groups_of_the_shipped_list() -> None:
    sexes, regions = people.leanings()
    assert sexes == [people.EVERYONE, "women", "men"]
    assert regions[0] == people.ANYWHERE
    assert {"Africa", "East Asia", "Latin America"} <= set(regions)
    chosen = people.InventRequest(1, people="women", region="Africa").settings()
    assert chosen.groups == ("women", "Africa")
    assert people.InventRequest(1).settings().groups == ()


def test_nobody_is_invented_for_sdxls_refiner_alone() -> None:
    clip: Any = types.SimpleNamespace(family="sdxl", encoders=("clip_g",), name="refiner")
    with pytest.raises(WrongModelError, match=r"SDXL's refiner.*: connect that of the base checkpoint\."):
        people.invented(people.InventRequest(1), clip)


def test_a_sheet_needs_an_image_of_each_person() -> None:
    one: Any = types.SimpleNamespace(name="mira", metadata=types.SimpleNamespace(base_model="some"))
    image = torch.rand(2, 40, 60, 3, generator=torch.Generator().manual_seed(0))
    sheet, sentence = people.sheet_of([one, one, one], [image, image[:1]])
    assert sheet.shape[0] == 1
    assert sheet.shape[2] > 3 * 256
    assert 0 <= float(sheet.min()) < float(sheet.max()) <= 1
    assert sentence == "A face was found in 0 of 3 images. some seems to know few of the celebrities: " + (
        "use another checkpoint, or a list of names that it knows."
    )
    for images in ([], [image]):
        with pytest.raises(IdentityError, match=r"of 3 people: connect one image of each, in the same order\."):
            people.sheet_of([one, one, one], images)


def test_outside_of_comfyui_a_sentence_says_so() -> None:
    with pytest.raises(HostError, match="The module folder_paths was not found: this is not a ComfyUI"):
        modules.comfy_module("folder_paths")


def test_a_class_that_is_not_there_is_named_with_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "comfyui_version", types.SimpleNamespace(__version__="9.1"))
    monkeypatch.setitem(sys.modules, "folder_paths", types.ModuleType("folder_paths"))
    expected = (
        r"The class folder_paths.Missing was not found in this ComfyUI \(9.1\): Celeb Basis was made for ComfyUI 0.3.64"
    )
    with pytest.raises(HostError, match=expected):
        modules.comfy_part("folder_paths", "Missing")
    with pytest.raises(HostError, match=r"list\.tokenize was not found in this ComfyUI \(9.1\)"):
        modules.method_of([], "tokenize")


def installer(folder: Path, monkeypatch: pytest.MonkeyPatch, missing: str, says: tuple[int, str]) -> list[list[str]]:
    """Run ``install.py`` from ``folder`` with pip's answer; returns the commands."""
    monkeypatch.delitem(sys.modules, "launch", raising=False)
    (folder / "install.py").write_text((ROOT / "install.py").read_text("utf-8"), "utf-8")
    code = runpy.run_path(str(folder / "install.py"), run_name="installer")
    commands: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        commands.append(command)
        return types.SimpleNamespace(returncode=says[0], stdout="", stderr=says[1])

    names = code["main"].__globals__
    monkeypatch.setitem(names, "subprocess", types.SimpleNamespace(run=run))
    monkeypatch.setitem(names, "is_there", lambda module: module != missing)
    monkeypatch.setattr(code["metadata"], "version", lambda _: "1.26.2")
    commands.append([str(code["main"]())])
    return commands


def test_comfyui_manager_installs_what_is_missing_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    folder = tmp_path / "custom_nodes" / "celeb-basis"
    folder.mkdir(parents=True)
    assert installer(folder, monkeypatch, "", (0, "")) == [["0"]]
    pip, ended = installer(folder, monkeypatch, "insightface", (0, ""))
    assert pip[:4] == [sys.executable, "-m", "pip", "install"]
    assert "--no-deps" in pip
    assert pip[-1] == "insightface==2.1"
    assert ended == ["0"]
    assert not (ROOT / "requirements.txt").exists(), "the manager would install it with everything that it asks for"


def test_comfyui_users_are_not_sent_to_the_webui(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "custom_nodes" / "celeb-basis"
    folder.mkdir(parents=True)
    assert installer(folder, monkeypatch, "onnx", (1, "ERROR: No route to host"))[-1] == ["0"]
    said = capsys.readouterr().out
    assert "WebUI" not in said
    assert f'run "{sys.executable}" "{folder / "install.py"}" while it is online' in said


def test_elsewhere_the_installer_says_what_it_is_for(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert installer(tmp_path, monkeypatch, "onnx", (0, "")) == [["1"]]
    assert "is for the WebUI and ComfyUI" in capsys.readouterr().err


def test_the_nodes_import_nothing_of_comfyui_themselves() -> None:
    for path in (ROOT / "__init__.py", *(ROOT / "comfyui").glob("*.py")):
        text = path.read_text("utf-8")
        assert not re.search(r"^\s*(import|from) (comfy|nodes|folder_paths|server|execution)\b", text, re.M), path
    assert importlib.util.find_spec("celeb_basis.hosts.comfyui.modules")


def test_nothing_is_imported_that_a_comfyui_lacks() -> None:
    """ComfyUI asks for transformers, but neither for diffusers nor for what only reports and the command line use."""
    script = """
import sys
for name in ("diffusers", "accelerate", "open_clip", "matplotlib", "ray", "gradio", "fastapi", "psutil"):
    sys.modules[name] = None
from celeb_basis.hosts.comfyui import app, host, model, modules, people
print("all")
"""
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "all", done.stderr
