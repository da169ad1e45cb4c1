"""What the extension does with the places of a job, and the weights that the host's samplers get, without a WebUI."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.sampler_hooks import MaskedWeight, PartWeight, _at_step
from celeb_basis.prompts.places import Places
from celeb_basis.regions import Box, Region
from celeb_basis.webui.placement import Placement, _pasted_text, _pasted_until, active_regional_script


@dataclass
class Job:
    """What is used of the host's processing object."""

    prompts: list[str] = field(default_factory=lambda: ["<ada> and <ben>"])
    width: int = 128
    height: int = 128
    scripts: Any = None
    script_args: tuple[Any, ...] = ()
    comments: list[str] = field(default_factory=list)
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    places: Places | None = None

    def comment(self, text: str) -> None:
        self.comments.append(text)


def use(job: Job, places: Places | None) -> None:
    job.places = places


@pytest.fixture
def placement() -> Placement:
    return Placement(use, lambda name: name.casefold() in ("ada", "ben"))


HALVES = "ada: left; ben: right"


def test_places_are_used_and_written(placement: Placement) -> None:
    job = Job()
    placement.before_batch(job, HALVES, 0.5)
    assert str(job.places) == HALVES
    assert job.places is not None
    assert job.places.until == 0.5
    assert job.extra_generation_params == {"Places": HALVES, "Places until": "0.5"}
    assert job.comments == []


@pytest.mark.parametrize("values", [(), ("",), ("  ", 0.5), (None, None)])
def test_without_places_nothing_is_said(placement: Placement, values: tuple[Any, ...]) -> None:
    job = Job(extra_generation_params={"Places": "of an earlier batch"})
    placement.before_batch(job, *values)
    assert (job.places, job.comments, job.extra_generation_params) == (None, [], {})


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (("ada: left; ben: left", 1), "have the same place"),
        (("ada: left; cyd: right", 1), "does not name cyd"),
        (("ada: 0 0 0.2 1; ben: right", 1), "too small for a face"),
        ((HALVES, 7), "share from 0 to 1"),
        ((HALVES, "x"), "share from 0 to 1"),
        (([1], 1), "cannot be read"),
    ],
)
def test_what_cannot_be_used_is_left_out_with_a_sentence(
    placement: Placement, values: tuple[Any, ...], said: str
) -> None:
    job = Job(places=object())  # type: ignore[arg-type]
    placement.before_batch(job, *values)
    assert job.places is None
    assert job.extra_generation_params == {}
    (comment,) = job.comments
    assert said in comment
    assert comment.endswith(". The image was generated without places.")


def test_a_name_that_is_nobodys_is_said(placement: Placement) -> None:
    job = Job(["<ada> and <zed>"])
    placement.before_batch(job, "ada: left; zed: right")
    assert "Nobody in your library is called zed" in job.comments[0]
    words = Job(["<ada> and Tom Hanks"])
    placement.before_batch(words, "ada: left; Tom Hanks: right")
    assert words.places is not None


def test_a_program_that_cannot_says_so() -> None:
    def refuse(job: Job, places: Places | None) -> None:
        job.places = places
        if places is not None:
            raise HostError("This WebUI has no forward: use another.")

    job = Job()
    Placement(refuse, lambda _: True).before_batch(job, HALVES)
    assert job.places is None
    assert "has no forward" in job.comments[0]


def job_beside(title: str, *values: Any) -> Job:
    script = SimpleNamespace(title=lambda: title, args_from=1, args_to=1 + len(values))
    return Job(scripts=SimpleNamespace(alwayson_scripts=[script]), script_args=(0, *values))


@pytest.mark.parametrize("title", ["Regional Prompter", "Forge Couple v2"])
def test_beside_another_extension_of_regions_places_stay_off(placement: Placement, title: str) -> None:
    job = job_beside(title, True, "Columns")
    assert active_regional_script(job) == title
    placement.before_batch(job, HALVES)
    assert job.places is None
    assert f"{title} is active" in job.comments[0]


@pytest.mark.parametrize("job", [job_beside("Regional Prompter", False), job_beside("Seed", True), Job()])
def test_a_script_that_is_off_or_another_does_not_matter(placement: Placement, job: Job) -> None:
    placement.before_batch(job, HALVES)
    assert job.places is not None


def test_pasted_parameters() -> None:
    pasted = {"Places": HALVES, "Places until": "0.6"}
    assert (_pasted_text(pasted), _pasted_until(pasted)) == (HALVES, 0.6)
    assert (_pasted_text({}), _pasted_until({})) == ("", 1.0)
    assert _pasted_until({"Places until": "soon"}) == 1.0
    assert _pasted_until({"Places until": "9"}) == 1.0


# Weights of parts


class Cond:
    """The host's conditioning of a batch."""

    def __init__(self, shape: Any, batch: Any) -> None:
        self.shape, self.batch = shape, batch


class Part:
    """A part of a composed prompt."""

    def __init__(self, schedules: Any, weight: Any) -> None:
        self.schedules, self.weight = schedules, weight


REGIONS = [Region("a", Box(0, 0, 0.5, 1)), Region("b", Box(0.5, 0, 1, 1))]


def composed(until: float = 0.5) -> Cond:
    weights = [PartWeight.make(REGIONS, place, 0.8, until) for place in (-1, 0, 1)]
    return Cond((1,), [[Part(name, weight) for name, weight in zip("sab", weights, strict=True)]])


def denoiser(step: int) -> Any:
    return SimpleNamespace(step=step, total_steps=4, steps=4)


def test_weights_are_masks_that_add_up_to_the_parts_own() -> None:
    made = _at_step(composed(), denoiser(1), torch.zeros(1, 4, 8, 12))
    weights = [part.weight for part in made.batch[0]]
    assert all(isinstance(one, MaskedWeight) for one in weights)
    assert sum(weights) == pytest.approx(0.8)
    masks = [one * 5.0 for one in weights]
    assert masks[0].shape == (1, 8, 12)
    torch.testing.assert_close(sum(masks), torch.full((1, 8, 12), 4.0))
    torch.testing.assert_close(5.0 * weights[1], masks[1])
    assert masks[1][0, 0, 0] == masks[2][0, 0, -1] == 4.0


def test_after_their_last_step_the_shared_prompt_is_left() -> None:
    made = _at_step(composed(), denoiser(2), torch.zeros(1, 4, 8, 8))
    assert [(part.schedules, part.weight) for part in made.batch[0]] == [("s", 0.8)]
    assert type(made.batch[0][0].weight) is float


def test_other_conditionings_are_passed_on() -> None:
    plain = Cond((1,), [[Part("s", 1.0)]])
    assert _at_step(plain, denoiser(0), torch.zeros(1, 4, 8, 8)) is plain
    tensor = torch.zeros(1)
    assert _at_step(tensor, denoiser(0), tensor) is tensor


def test_where_nobody_makes_masks_the_shared_prompt_has_all_the_weight() -> None:
    assert [float(part.weight) for part in composed().batch[0]] == [0.8, 0.0, 0.0]
