"""The people in a picture's parameters: the text, one value for each picture, and warnings on paste."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.people import family_bases, model_info, person

from celeb_basis.errors import CelebBasisError
from celeb_basis.files import checked_name
from celeb_basis.identities.library import IdentityStatus, Library
from celeb_basis.prompts.registry import Checkpoint, Registry
from celeb_basis.provenance import PEOPLE, parse_people
from celeb_basis.webui.infotext import Infotext, written

# As the host's own parser has it: one "Key: value" of the last line, quoted where it holds commas or colons.
HOST_PARAMETER = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


@dataclass
class FakeTokens:
    """The library's people on a checkpoint of theirs. Identities learned on it need no basis."""

    registry: Registry
    on: Checkpoint = field(default_factory=lambda: Checkpoint(model_info("sd1"), list))

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        return self.registry.mentioned(prompts, self.on)


@dataclass
class Job:
    """What is used of the host's processing object."""

    all_prompts: list[str]
    all_negative_prompts: list[str]
    batch_size: int = 1
    iteration: int = 0
    enable_hr: bool = False
    all_hr_prompts: list[str] | None = None
    all_hr_negative_prompts: list[str] | None = None
    extra_generation_params: dict[str, Any] = field(default_factory=dict)


@pytest.fixture
def library(tmp_path: Path) -> Library:
    library = Library(tmp_path / "people")
    for seed, name in enumerate(("person1", "Doe, Jane", "Zoë")):
        library.add(person(name, seed=seed, thumbnail=None))
    library.add(person("large", "sdxl"))
    return library


@pytest.fixture
def tokens(library: Library) -> FakeTokens:
    return FakeTokens(Registry(library.folder))


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def infotext(tokens: FakeTokens, said: list[str]) -> Infotext:
    return Infotext(lambda: tokens, said.append)


def hash_of(library: Library, name: str) -> str:
    return library.load(name).content_hash


def job(*prompts: str, negative: str = "", **options: Any) -> Job:
    return Job(list(prompts), [negative] * len(prompts), **options)


def told(one: Job) -> list[str | None]:
    """What the host is answered for each picture: counted within its batch, and within the job."""
    value = one.extra_generation_params[PEOPLE]
    within_job = [value(p=one, index=index, all_prompts=one.all_prompts) for index in range(len(one.all_prompts))]
    within_batch = []
    for index in range(len(one.all_prompts)):
        one.iteration, place = divmod(index, one.batch_size)
        within_batch.append(value(p=one, index=place, all_prompts=one.all_prompts[:1], comments=None))
    assert within_batch == within_job
    assert value(p=one, index=0, all_prompts=["the last batch"], use_main_prompt=True) == within_job[0]
    assert value(p=one, index=99, all_prompts=one.all_prompts) is None
    return within_job


def test_value_names_everybody_once_in_order(infotext: Infotext, library: Library) -> None:
    value = infotext.value(["<Zoë>, and <person1:0.8>'s hat", "<PERSON1> AND <nobody> <Doe, Jane>"])
    assert value == ", ".join(f"{name}: {hash_of(library, name)}" for name in ("Zoë", "person1", "Doe, Jane"))


def test_value_leaves_out_whom_the_checkpoint_cannot_draw(infotext: Infotext) -> None:
    assert infotext.value(["<large> person1 <person10>"]) is None


def test_nobody_adds_nothing(infotext: Infotext) -> None:
    one = job("a person1", "<lora:x:1>")
    infotext.note(one, 0)
    assert one.extra_generation_params == {}


def test_same_people_in_every_picture_are_one_text(infotext: Infotext, library: Library) -> None:
    one = job("<person1> a", "<person1> b")
    infotext.note(one, 0)
    infotext.note(one, 1)
    assert one.extra_generation_params == {PEOPLE: f"person1: {hash_of(library, 'person1')}"}


def test_each_picture_has_its_own_people(infotext: Infotext, library: Library) -> None:
    one = job("<person1>", "nobody", "<Zoë>", negative="", batch_size=2)
    for batch in (0, 1):
        infotext.note(one, batch)
    assert told(one) == [f"person1: {hash_of(library, 'person1')}", None, f"Zoë: {hash_of(library, 'Zoë')}"]


@pytest.mark.parametrize("where", ["all_negative_prompts", "all_hr_prompts", "all_hr_negative_prompts"])
def test_negative_and_hires_prompts_count(infotext: Infotext, library: Library, where: str) -> None:
    one = job("a portrait", enable_hr=True, all_hr_prompts=["x"], all_hr_negative_prompts=["x"])
    setattr(one, where, ["<Zoë>"])
    infotext.note(one, 0)
    assert one.extra_generation_params == {PEOPLE: f"Zoë: {hash_of(library, 'Zoë')}"}


def test_hires_prompts_do_not_count_without_hires(infotext: Infotext) -> None:
    one = job("a portrait", all_hr_prompts=["<Zoë>"])
    infotext.note(one, 0)
    assert not one.extra_generation_params


def test_earlier_pictures_keep_whom_they_were_drawn_with(infotext: Infotext, library: Library) -> None:
    one = job("<person1>", "<person1>")
    infotext.note(one, 0)
    before = hash_of(library, "person1")
    library.add(person("person1", seed=77), replace=True)
    infotext.note(one, 1)
    assert told(one) == [f"person1: {before}", f"person1: {hash_of(library, 'person1')}"]
    assert before != hash_of(library, "person1")


@pytest.mark.parametrize("key", ["ADetailer prompt", "ADetailer negative prompt", "ADetailer prompt 2nd"])
def test_prompts_of_adetailer_count(infotext: Infotext, library: Library, key: str) -> None:
    one = job("<person1>", extra_generation_params={key: "<Zoë>, [PROMPT]", "ADetailer prompter": "<Doe, Jane>"})
    infotext.note(one, 0)
    assert one.extra_generation_params[PEOPLE] == ", ".join(
        f"{name}: {hash_of(library, name)}" for name in ("person1", "Zoë")
    )


def test_people_merged_by_embedding_merge_count_where_they_are_drawn(infotext: Infotext, library: Library) -> None:
    merges = "<'EM_1'>=<'<person1>'*0.5+'cat'>, {'EM_2'}={'<Zoë>'*2}, <'EM_12'>=<'<Doe, Jane>'>"
    one = job("a <'EM_1'> hat", "nobody", "{'EM_2'} smiling", extra_generation_params={"EmbeddingMerge": merges})
    infotext.note(one, 0)
    assert told(one) == [f"person1: {hash_of(library, 'person1')}", None, f"Zoë: {hash_of(library, 'Zoë')}"]


def test_hash_is_that_of_the_file_on_another_checkpoint(library: Library, said: list[str]) -> None:
    bases = family_bases("sd1", seed=5)
    elsewhere = FakeTokens(Registry(library.folder), Checkpoint(model_info("sd1", "another"), list))
    # Fitted to another checkpoint, the word has other vectors; what is written must not depend on that.
    identity = replace(library.load("person1"), vectors=(bases[0].mean.numpy(),))
    fitted = IdentityStatus("person1", library.path_of("person1"), identity)
    elsewhere.mentioned = lambda *_: (fitted,)  # type: ignore[method-assign]
    value = Infotext(lambda: elsewhere, said.append).value(["<person1>"])
    assert value == f"person1: {hash_of(library, 'person1')}"


def test_no_tokens_no_parameter(said: list[str]) -> None:
    nobody = Infotext(lambda: None, said.append)
    one = job("<person1>")
    nobody.note(one, 0)
    nobody.pasted("", {PEOPLE: "person1: 3da88c0dcb81"})
    assert not one.extra_generation_params
    assert not said


def test_a_saved_picture_says_that_it_is_generated_and_of_whom(infotext: Infotext) -> None:
    written = "a photo of <Ada> and <carl>\nNegative prompt: <Bob>, blur\nSteps: 1, Celeb Basis: "
    told = {"parameters": written + '"Ada: 0123456789ab, Bob: 0123456789ab"', "extras": "x"}
    infotext.saved(SimpleNamespace(pnginfo=told))
    assert "AI-generated picture of <Ada>," in told["AI-generated person"]
    assert "trainedAlgorithmicMedia" in told["XML:com.adobe.xmp"]
    nobody = {"parameters": "a photo of <Ada>\nSteps: 1"}
    infotext.saved(SimpleNamespace(pnginfo=nobody))
    assert list(nobody) == ["parameters"]
    infotext.saved(SimpleNamespace(pnginfo={}))


def test_paste_of_what_is_here_says_nothing(infotext: Infotext, said: list[str]) -> None:
    value = infotext.value(["<person1> <Doe, Jane> <Zoë>"])
    infotext.pasted("", {PEOPLE: value, "Prompt": "<person1>"})
    assert said == []


def test_paste_warns_of_another_hash(infotext: Infotext, library: Library, said: list[str]) -> None:
    infotext.pasted("", {PEOPLE: "person1: 3da88c0dcb81"})
    assert len(said) == 1
    assert "3da88c0dcb81" in said[0]
    assert hash_of(library, "person1") in said[0]


def test_paste_warns_of_somebody_missing(infotext: Infotext, said: list[str]) -> None:
    infotext.pasted("", {PEOPLE: "ada: 3da88c0dcb81, Zoe: 3da88c0dcb82"})
    assert ["<ada>" in said[0], "<Zoe>" in said[1], len(said)] == [True, True, 2]
    assert all("not in your library" in sentence for sentence in said)


def test_paste_tells_under_which_name_a_missing_person_is_here(
    infotext: Infotext, library: Library, said: list[str]
) -> None:
    value = infotext.value(["<person1>"])
    library.rename("person1", "grandma")
    infotext.pasted("", {PEOPLE: value})
    assert "<grandma>" in said[0]


def test_paste_warns_of_a_broken_file(infotext: Infotext, library: Library, said: list[str]) -> None:
    (library.folder / "person1.safetensors").write_bytes(b"no identity")
    infotext.pasted("", {PEOPLE: "person1: 3da88c0dcb81"})
    assert "unusable" in said[0]


@pytest.mark.parametrize(
    "hostile",
    [None, 3, [], "", "x" * 100_000, "person1", "person1: xyz", ": 3da88c0dcb81", "a\nb: 3da88c0dcb81",
     '<img src=x onerror="alert(1)">: 3da88c0dcb81', "../../x", {"a": 1}],
)  # fmt: skip
def test_hostile_parameters_are_ignored_or_harmless(hostile: Any, infotext: Infotext, said: list[str]) -> None:
    infotext.pasted("", {PEOPLE: hostile})
    assert not any("<img" in sentence for sentence in said)


def names() -> st.SearchStrategy[str]:
    def usable(text: str) -> bool:
        try:
            return checked_name(text) == text
        except CelebBasisError:
            return False

    return st.text(min_size=1, max_size=20).filter(usable)


@given(st.lists(st.tuples(names(), st.from_regex(r"[0-9a-f]{12}", fullmatch=True)), max_size=4))
def test_what_is_written_is_read_again_through_the_hosts_parser(people: list[tuple[str, str]]) -> None:
    value = written(people)
    if not people:
        assert value is None
        return
    assert value is not None
    assert parse_people(value) == tuple(people)
    line = f"Steps: 20, Size: 64x64, {PEOPLE}: {json.dumps(value, ensure_ascii=False)}, Version: v1.10.1"
    parsed = dict(HOST_PARAMETER.findall(line))
    assert json.loads(parsed[PEOPLE]) == value
    assert parsed["Version"] == "v1.10.1"


@given(st.text())
def test_reading_never_fails(text: str) -> None:
    for name, content_hash in parse_people(text):
        assert not set(name) & set('<>":\n')
        assert len(content_hash) == 12
