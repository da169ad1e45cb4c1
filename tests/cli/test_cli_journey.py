"""All commands end to end in this process: a small SD1 model folder, real small face networks, a real photo."""

from __future__ import annotations

import json
import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from celeb_basis.cli.progress import LearnBar
from celeb_basis.events import Event, StepDone
from celeb_basis.identities.identity import load_identity


def test_basis_reports_names_variance_and_the_cache(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    # One double that is to be dropped, and found in the report.
    names.write_text(parts.names.read_text(encoding="utf-8") + parts.names.read_text(encoding="utf-8").split("\n")[0])
    words = ["basis", "--model", parts.model, "--names", names, "--components", 8]
    first = celeb(*words, "--json", "--plot", tmp_path / "v.svg", "--save-names", tmp_path / "kept.txt").json["bases"][
        0
    ]
    assert first["encoder"] == "clip_l"
    assert (first["components"], first["width"]) == (8, 64)
    assert first["names_used"] + first["names_dropped"] == 61
    assert first["report"]["counts"]["duplicate name"] == 1
    assert not first["from_cache"]
    for shares in first["explained"]:
        assert shares == sorted(shares, reverse=True)
        assert 0 < sum(shares) < 1
    assert (tmp_path / "v.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert len((tmp_path / "kept.txt").read_text(encoding="utf-8").split("\n")) == first["names_used"] + 1

    answer = celeb(*words, "--dropped")
    assert "from the cache" in answer.out
    assert f"{first['names_used']} used, {first['names_dropped']} dropped" in answer.out
    assert "same name as" in answer.out


def test_basis_can_ask_the_model_for_faces(celeb: Callable[..., Any], parts: Any, tmp_path: Path) -> None:
    names = tmp_path / "names.txt"
    names.write_text("\n".join(parts.names.read_text(encoding="utf-8").split("\n")[:12]))
    kept = tmp_path / "kept.txt"
    words = ["--names", names, "--components", 8, "--faces", parts.faces, "--draw-steps", 1, "--save-names", kept]
    answer = celeb("basis", "--model", parts.model, "--draws-face", *words)
    # Random weights draw no face, so that every name is dropped and the basis refused; nothing is written.
    assert answer.code == 2
    assert "Only 0 of the 12 names" in answer.err
    assert not kept.exists()


def test_learning_leaves_an_identity_and_a_report(library: Path, parts: Any, learned: Path) -> None:
    identity = load_identity(library / "ada.safetensors")
    assert identity.metadata.base_model == "small-sd1"
    assert identity.metadata.consent == "she said yes"
    assert identity.metadata.steps == 4
    assert identity.metadata.face_model == "", "no face vector goes into coefficients that start at the mean"
    assert identity.coefficients[0].shape == (2, 8)
    norms = np.linalg.norm(identity.coefficients[0], axis=1)  # four steps from the mean are no long way
    assert ((norms > 0) & (norms < 0.3)).all()
    page = (learned / "ada.html").read_text(encoding="utf-8")
    assert "Done after 4 steps." in page
    assert parts.photo.name in page
    assert page.count("data:image/") >= 2
    assert not (learned / "cache" / "unfinished").exists()


def test_info(celeb: Callable[..., Any], parts: Any, library: Path) -> None:
    plain = celeb("info", "ada")
    assert "word: <ada>" in plain.out
    assert "nearest" not in plain.out
    shown = celeb("info", "ada", "--model", parts.model, "--names", parts.names, "--json").json
    known = set(parts.names.read_text(encoding="utf-8").split("\n"))
    assert len(shown["nearest"]) == 10
    assert {name for name, _ in shown["nearest"]} <= known
    assert shown["distance"] > 0
    model = celeb("info", parts.model, "--json").json
    assert (model["kind"], model["family"], model["sha256"]) == ("model", "sd1", shown["base_sha256"])
    assert [one["name"] for one in celeb("info", "--json").json["people"]] == ["ada"]
    assert celeb("info", library / "ada.safetensors", "--json").json["content_hash"] == shown["content_hash"]


def test_generate_writes_images_with_their_parameters(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path
) -> None:
    words = ["generate", "a photo of <ada>", "--identity", "ada", "--model", parts.model, "--steps", 2]
    words += ["--seed", 5, "--negative", "blur, noise: none", "--output", tmp_path / "out", "--json"]
    shown = celeb(*words, "--count", 2).json
    identity = load_identity(library / "ada.safetensors")
    assert [entry["seed"] for entry in shown["pictures"]] == [5, 6]
    with Image.open(shown["pictures"][1]["file"]) as image:
        text = image.text["parameters"]
        second = np.asarray(image)
        assert image.size == (64, 64)
    assert text.split("\n")[0] == "a photo of <ada>"
    assert text.split("\n")[1] == "Negative prompt: blur, noise: none"
    assert "Steps: 2, Sampler: DDIM, CFG scale: 7.5, Seed: 6, Size: 64x64" in text
    assert f'Celeb Basis: "ada: {identity.content_hash}"' in text

    # Picture i is SEED + i alone; earlier pictures are never written over.
    again = celeb(*words, "--count", 1, "--seed", 6).json
    assert again["pictures"][0]["file"] not in {entry["file"] for entry in shown["pictures"]}
    with Image.open(again["pictures"][0]["file"]) as image:
        np.testing.assert_array_equal(np.asarray(image), second)
    solved = celeb(*words, "--count", 1, "--sampler", "rbf").json
    with Image.open(solved["pictures"][0]["file"]) as image:
        assert "Steps: 2, Sampler: RBF-Solver, CFG scale: 7.5, Seed: 5" in image.text["parameters"]
    other = celeb("generate", "a photo of a cat", *words[2:4], *words[4:], "--count", 1, "--seed", 6)
    assert "warning: <ada> is not in the prompt" in other.err
    with Image.open(other.json["pictures"][0]["file"]) as image:
        assert not np.array_equal(np.asarray(image), second)


def test_parameters_are_read_back(tmp_path: Path) -> None:
    from PIL.PngImagePlugin import PngInfo

    from celeb_basis.provenance import GenerationParameters, parameters_text, read_parameters

    text = parameters_text(
        prompt='a "photo", Seed: 3 of <Zoë, B.>',
        negative="x",
        steps=1,
        guidance=2.5,
        seed=9,
        size=(8, 8),
        model='a, "b": c',
        model_sha256="0" * 64,
        identities={"Zoë, B.": "3da88c0dcb81"},
    )
    remarks = PngInfo()
    remarks.add_itxt("parameters", text)
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=remarks)
    Image.new("RGB", (8, 8)).save(tmp_path / "b.png")
    assert read_parameters(tmp_path / "a.png") == GenerationParameters(
        'a "photo", Seed: 3 of <Zoë, B.>', 9, ("<Zoë, B.>",)
    )
    assert read_parameters(tmp_path / "b.png") is None


@pytest.mark.parametrize(
    ("people", "words"),
    [
        ('"ada: 3da88c0dcb81, Zoë, B.: 0123456789ab"', ("<ada>", "<Zoë, B.>")),
        ('"who knows: what"', ()),
        ("12", ()),
        ("[" * 100_000, ()),
    ],
)
def test_the_webuis_infotext_is_read_too(tmp_path: Path, people: str, words: tuple[str, ...]) -> None:
    from PIL.PngImagePlugin import PngInfo

    from celeb_basis.provenance import GenerationParameters, read_parameters

    remarks = PngInfo()
    lines = "a photo of <ada>\nby the sea\nNegative prompt: blur\n"
    remarks.add_text("parameters", f"{lines}Steps: 20, Seed: 77, Size: 64x64, Celeb Basis: {people}, Version: v1.10.1")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=remarks)
    assert read_parameters(tmp_path / "a.png") == GenerationParameters("a photo of <ada>\nby the sea", 77, words)


def test_an_identity_is_re_expanded_for_another_checkpoint_of_its_family(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path
) -> None:
    from miniature.small_models.pipelines import make_pipeline, save_pipeline

    save_pipeline(make_pipeline("sd1", width=64, seed=1), tmp_path / "other-sd1")
    words = ["--identity", "ada", "--names", parts.names, "--steps", 1, "--output", tmp_path / "out"]
    answer = celeb("generate", "<ada>", "--model", tmp_path / "other-sd1", *words, "--json")
    assert answer.code == 0, answer.err
    assert "is re-expanded for other-sd1" in answer.err
    assert answer.json["identities"]["ada"] != load_identity(library / "ada.safetensors").content_hash
    # With another list of names the coefficients would mean another person.
    wrong = celeb("generate", "<ada>", "--model", tmp_path / "other-sd1", *words[:2], *words[4:])
    assert wrong.code == 2
    assert "another names list" in wrong.err


@pytest.mark.parametrize(("layout", "suffix"), [("webui", ".pt"), ("comfyui", ".safetensors"), ("diffusers", ".bin")])
def test_export_and_import_return_the_same_vectors(
    layout: str, suffix: str, celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path
) -> None:
    shown = celeb("export", "ada", "--layout", layout, "--output", tmp_path / f"ada{suffix}", "--json").json
    assert shown["files"] == [str(tmp_path / f"ada{suffix}")]
    words = ["--model", parts.model, "--names", parts.names, "--components", 8, "--library", tmp_path / "other"]
    answer = celeb("import", shown["files"][0], "--as", "back", *words)
    assert answer.code == 0, answer.err
    assert "explains 100%" in answer.err
    original, back = load_identity(library / "ada.safetensors"), load_identity(tmp_path / "other" / "back.safetensors")
    np.testing.assert_allclose(back.vectors[0], original.vectors[0], atol=1e-5)
    np.testing.assert_allclose(back.coefficients[0], original.coefficients[0], atol=1e-5)


def test_import_takes_identity_files_and_the_authors(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path
) -> None:
    import torch

    assert celeb("import", library / "ada.safetensors", "--as", "eve", "--library", tmp_path).code == 0
    eve, ada = load_identity(tmp_path / "eve.safetensors"), load_identity(library / "ada.safetensors")
    assert (eve.name, eve.content_hash) == ("eve", ada.content_hash)
    coefficients = torch.from_numpy(ada.coefficients[0].copy())[:, None]
    torch.save({"id_coefficients": [coefficients]}, tmp_path / "theirs.pt")
    model = ["--model", parts.model, "--library", tmp_path]
    alone = celeb("import", tmp_path / "theirs.pt", "--as", "their", *model)
    assert alone.code == 2
    assert "--authors-basis" in alone.err
    answer = celeb("import", tmp_path / "theirs.pt", "--as", "their", "--names", parts.names, *model)
    assert answer.code == 0, answer.err
    assert "signs that this machine's" in answer.err
    basis = torch.randn(2, 1 + coefficients.shape[-1], ada.vectors[0].shape[1])
    torch.save(basis, tmp_path / "celeb_basis.pt")
    words = ["--authors-basis", tmp_path / "celeb_basis.pt", *model]
    assert celeb("import", tmp_path / "theirs.pt", "--as", "exact", *words).code == 0
    exact = load_identity(tmp_path / "exact.safetensors")
    expected = basis[:, 0] + torch.einsum("ehk,ekd->ed", coefficients, basis[:, 1:])
    np.testing.assert_allclose(exact.vectors[0], expected.numpy(), atol=1e-5)
    assert exact.coefficients[0].tobytes() == ada.coefficients[0].tobytes()


def test_blend_is_arithmetic_on_coefficients(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path
) -> None:
    words = ["--model", parts.model, "--names", parts.names, "--library", tmp_path]
    ada = load_identity(library / "ada.safetensors")
    path = library / "ada.safetensors"
    assert celeb("blend", f"{path}=3", f"{path}=1", "--as", "same", *words).code == 0
    np.testing.assert_allclose(
        load_identity(tmp_path / "same.safetensors").coefficients[0], ada.coefficients[0], atol=1e-6
    )
    assert celeb("blend", path, "--toward-mean", 0.25, "--as", "mild", *words).code == 0
    np.testing.assert_allclose(
        load_identity(tmp_path / "mild.safetensors").coefficients[0], 0.75 * ada.coefficients[0], atol=1e-6
    )
    star = parts.names.read_text(encoding="utf-8").split("\n")[3]
    shown = celeb("blend", path, "--toward-celebrity", f"{star}=1", "--as", "star", *words, "--json").json
    assert shown["nearest"][0][0] == star
    assert shown["nearest"][0][1] == pytest.approx(1, abs=1e-5)
    unknown = celeb("blend", path, "--toward-celebrity", "Nobody Atall=0.5", "--as", "x", *words)
    assert unknown.code == 2
    assert "Nobody Atall" in unknown.err


def test_a_blend_is_steered(celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path) -> None:
    """The names are those of the learned person, with groups behind them."""
    known = parts.names.read_text(encoding="utf-8").split("\n")[:-1]
    groups = tmp_path / "groups.txt"
    groups.write_text("\n".join(f"{name}, {'women' if i % 2 else 'men'}" for i, name in enumerate(known)), "utf-8")
    words = ["--model", parts.model, "--names", groups, "--library", tmp_path]
    path, star, other = library / "ada.safetensors", "Aaron Paul", "Adam Driver"
    where = ["--toward", f"{star}=1", "--away", f"{other}=0.3", "--group", "women=0.4"]
    shown = celeb("blend", path, *where, "--as", "eve", *words, "--json").json
    assert star in [name for name, _ in shown["nearest"]]
    ada, eve = load_identity(path), load_identity(tmp_path / "eve.safetensors")
    np.testing.assert_allclose(
        np.linalg.norm(eve.coefficients[0], axis=-1), np.linalg.norm(ada.coefficients[0], axis=-1), rtol=1e-5
    )
    settings = eve.metadata.settings
    assert settings["celebrities"] == [[star, 1.0], [other, -0.3]]
    assert settings["groups"] == [["women", 0.4]]
    for wrong, why in (
        (["--toward", f"{star[:-1]}=0.3"], f"did you mean {star}"),
        (["--toward", f"{star}=1.5"], "from -1 to 1"),
        (["--away", star], "write NAME=NUMBER"),
        (["--group", "robots=0.3"], "choose from"),
    ):
        answer = celeb("blend", path, *wrong, "--as", "x", *words)
        assert answer.code == 2
        assert why in answer.err


def test_evaluate_takes_a_folder_or_generates_images(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path
) -> None:
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    (pictures / "photo.png").write_bytes(parts.photo.read_bytes())
    Image.new("RGB", (64, 64), "grey").save(pictures / "grey.png")
    common = ["--reference", parts.photo, "--faces", parts.faces]
    shown = celeb(
        "evaluate", pictures, *common, "--json", "--sheet", tmp_path / "s.png", "--output", tmp_path / "v.json"
    )
    verdict = shown.json
    # The reference itself has similarity 1, and a gray square has no face.
    assert verdict["identity"]["value"] == pytest.approx(1, abs=1e-5)
    assert verdict["detect"]["value"] == 0.5
    assert verdict["prompt"] is None
    assert json.loads((tmp_path / "v.json").read_text(encoding="utf-8")) == verdict
    with Image.open(tmp_path / "s.png") as sheet:
        assert min(sheet.size) > 200
    # Of whom pictures without parameters are is what --identity says, a name or a file.
    file = ["--identity", library / "ada.safetensors", "--sheet", tmp_path / "of.png"]
    assert celeb("evaluate", pictures, *common, *file).code == 0
    with Image.open(tmp_path / "of.png") as sheet:
        assert "AI-generated pictures of <ada>," in sheet.text["AI-generated person"]

    words = ["--identity", "ada", "--model", parts.model, "--kinds", "style", "--prompts", 2, "--seeds", 2]
    answer = celeb("evaluate", *words, *common, "--steps", 1, "--keep", tmp_path / "kept", "--json")
    assert answer.code == 0, answer.err
    assert [(one["prompt"].count("<ada>"), one["seed"]) for one in answer.json["pictures"]] == [(1, 0), (1, 1)] * 2
    assert len(list((tmp_path / "kept").glob("*.png"))) == 4
    # What was kept can be judged again, with the same answer.
    again = celeb("evaluate", tmp_path / "kept", *common, "--json").json
    assert again["pictures"] == answer.json["pictures"]


def test_interrupted_and_resumed_ends_as_if_nothing_had_happened(
    celeb: Callable[..., Any], parts: Any, library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = signal.getsignal(signal.SIGINT)  # not Python's own in a background process of a shell
    learn = ["learn", parts.photo, "--name", "ada", *parts.learning, "--library", tmp_path / "library"]
    show = LearnBar.show

    def ctrl_c(bar: LearnBar, event: Event) -> None:
        show(bar, event)
        if isinstance(event, StepDone) and event.step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LearnBar, "show", ctrl_c)
        answer = celeb(*learn, "--json")
    assert answer.code == 130
    assert answer.json["interrupted"]
    person = answer.json["people"][0]
    assert (person["name"], person["ok"], person["steps"]) == ("ada", False, 2)
    assert not (tmp_path / "library").exists()
    command = shlex.split(answer.err.split("to resume it: ")[1])
    assert command[:4] == ["celeb-basis", "learn", "--resume", person["state"]]
    # The handler is gone again.
    assert signal.getsignal(signal.SIGINT) is handler

    resumed = celeb(*command[1:])
    assert resumed.code == 0, resumed.err
    assert "all 4 steps done" in resumed.out
    ours, whole = load_identity(tmp_path / "library" / "ada.safetensors"), load_identity(library / "ada.safetensors")
    np.testing.assert_array_equal(ours.coefficients[0], whole.coefficients[0])
    assert ours.content_hash == whole.content_hash
    assert not Path(person["state"]).exists()


def test_a_resumed_run_takes_changes_that_make_sense(
    celeb: Callable[..., Any], parts: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "kept.safetensors"
    show = LearnBar.show

    def ctrl_c(bar: LearnBar, event: Event) -> None:
        show(bar, event)
        if isinstance(event, StepDone) and event.step == 1:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(LearnBar, "show", ctrl_c)
        assert celeb("learn", parts.photo, "--name", "ada", *parts.learning, "--state", state).code == 130
    resume = ["learn", "--resume", state, "--model", parts.model, "--names", parts.names, "--library", tmp_path / "l"]
    refused = celeb(*resume, "--views", 9)
    assert refused.code == 2
    assert "--views 3, which cannot change" in refused.err
    done = celeb(*resume, "--steps", 2, "--learning-rate", 0.001)
    assert done.code == 0, done.err
    assert load_identity(tmp_path / "l" / "ada.safetensors").metadata.settings["learning_rate"] == 0.001
    assert load_identity(tmp_path / "l" / "ada.safetensors").metadata.steps == 2
    assert state.exists()  # the user's own file is left alone
