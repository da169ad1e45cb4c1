"""Jobs and their queue: what is kept, in which order, and which events a reader sees."""

from __future__ import annotations

import itertools
import threading
import time

import pytest

from celeb_basis.errors import TrainingError
from celeb_basis.events import DrawingNames, PersonProgress, Preparing, StepDone, Warned
from celeb_basis.webui.jobs import MAX_CURVE, MAX_EVENTS, MAX_FINISHED, MAX_WITH_PICTURES, Job, JobQueue
from celeb_basis.webui.schemas import NoSuchJobError


def step(number: int, total: int, people: dict[str, PersonProgress] | None = None) -> StepDone:
    return StepDone(number, total, 1 / number, 2 / number, people, float(total - number))


def test_progress_follows_the_events() -> None:
    job = Job("learn", ("ada",))
    job.add_event(Preparing(3, 8))
    assert (job.progress().stage, job.progress().step, job.progress().total) == ("Preparing the views", 3, 8)
    near = {"ada": PersonProgress(0.5, 2.0, (("Marie Curie", 0.4),))}
    job.add_event(step(1, 4, near))
    job.add_event(step(2, 4))
    progress = job.progress()
    assert (progress.step, progress.total, progress.fraction, progress.seconds_left) == (2, 4, 0.5, 2.0)
    assert (progress.loss, progress.average_loss) == (0.5, 1.0)
    assert progress.people == near, "kept between two reports"
    assert progress.curve == ((1, 1.0, 2.0), (2, 0.5, 1.0))


def test_warnings_of_a_run_stay_in_its_progress() -> None:
    job = Job("learn", ("ada",))
    job.add_event(DrawingNames(640, 640))
    job.add_event(Warned("Learning starts at the mean."))
    job.add_event(Preparing(1, 8))
    job.add_event(step(1, 4))
    assert list(job.as_dict()["progress"]["warnings"]) == ["Learning starts at the mean."]
    warned = [event["message"] for event in job.events_after() if event["event"] == "Warned"]
    assert warned == ["Learning starts at the mean."]


def test_a_long_run_keeps_its_whole_curve_thinned() -> None:
    job = Job("learn", ("ada",))
    total = 10 * MAX_CURVE
    for number in range(1, total + 1):
        job.add_event(step(number, total))
    steps = [point[0] for point in job.progress().curve]
    assert MAX_CURVE / 4 < len(steps) <= MAX_CURVE
    assert steps == sorted(set(steps))
    assert steps[0] <= total / 100
    assert steps[-1] == total
    gaps = {after - before for before, after in itertools.pairwise(steps[5:-1])}
    assert max(gaps) <= 2 * min(gaps), "evenly"
    events = job.events_after()
    assert len(events) == MAX_EVENTS
    assert events[-1]["step"] == total


def test_a_watcher_sees_every_event_once_while_it_is_written() -> None:
    job = Job("learn", ("ada",))
    seen: list[int] = []

    def watch() -> None:
        after = -1
        while not seen or seen[-1] < 600:
            for event in job.events_after(after):
                after = event["index"]
                seen.append(after)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    for number in range(1, 601):
        job.add_event(step(number, 600))
    watcher.join(20)
    assert seen == list(range(601))


def test_one_after_the_other_in_their_order() -> None:
    queue, order, at_once = JobQueue(), [], []

    def work(job: Job) -> None:
        at_once.append(queue.running)
        order.append(job.id)
        time.sleep(0.01)
        assert queue.running is job

    jobs = [Job("learn", (str(number),)) for number in range(6)]
    for job in jobs:
        queue.submit(job, work)
    assert all(job.wait(10) for job in jobs)
    assert order == [job.id for job in jobs]
    assert at_once == jobs
    assert [job.state for job in jobs] == ["done"] * 6
    assert queue.jobs() == sorted(jobs, key=lambda job: -job.created)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (TrainingError("A sentence."), "A sentence."),
        (MemoryError(), "Out of memory"),
        (KeyError("x"), "error in celeb-basis itself"),
        (SystemExit(1), "error in celeb-basis itself"),
    ],
)
def test_errors_are_told_and_stop_nothing(error: BaseException, words: str) -> None:
    queue = JobQueue()

    def work(_job: Job) -> None:
        raise error

    first, second = Job("learn", ("ada",)), Job("learn", ("bob",))
    queue.submit(first, work)
    queue.submit(second, lambda _job: None)
    assert second.wait(10)
    assert (first.state, second.state) == ("failed", "done")
    assert words in first.error


def test_a_waiting_job_is_taken_out_at_once() -> None:
    queue, go = JobQueue(), threading.Event()
    first, second = Job("learn", ("ada",)), Job("learn", ("bob",))

    def work(_job: Job) -> None:
        go.wait(10)

    queue.submit(first, work)
    queue.submit(second, lambda _job: pytest.fail("never"))
    queue.interrupt(second.id)
    assert second.state == "interrupted"
    queue.interrupt(first.id)
    assert first.interrupt.is_set()
    go.set()
    assert first.wait(10)


def test_old_jobs_are_forgotten() -> None:
    queue = JobQueue()
    jobs = [Job("learn", (str(number),)) for number in range(MAX_FINISHED + 10)]
    for job in jobs:
        queue.submit(job, lambda _job: None)
        assert job.wait(10)
    assert len(queue.jobs()) <= MAX_FINISHED + 1
    with pytest.raises(NoSuchJobError):
        queue.job(jobs[0].id)
    assert queue.job(jobs[-1].id) is jobs[-1]


def test_who_can_go_on_is_not_forgotten() -> None:
    queue = JobQueue()
    kept = Job("learn", ("ada",))
    kept.resumable = True
    kept.set_state("interrupted")
    queue.remember(kept)
    for number in range(MAX_FINISHED + 5):
        queue.submit(job := Job("basis", (str(number),)), lambda _job: None)
        assert job.wait(10)
    assert queue.job(kept.id) is kept


def test_old_pictures_are_let_go_but_for_the_newest_of_each_kind() -> None:
    queue = JobQueue()
    jobs = [Job("learn", ("ada",)), *(Job("evaluate", ("ada",)) for _ in range(MAX_WITH_PICTURES + 3))]

    def draw(job: Job) -> None:
        job.pictures = (object(),)

    for number, job in enumerate(jobs):
        job.created = float(number)
        queue.submit(job, draw)
        assert job.wait(10)
    queue.submit(last := Job("basis", ()), lambda _job: None)
    assert last.wait(10)
    holding = [len(job.pictures) for job in jobs]
    assert holding == [1, 0, 0, 0, *[1] * MAX_WITH_PICTURES], "the page still shows the last run"
