"""The two output streams: one progress bar after the other, and names that a stream cannot encode."""

from __future__ import annotations

import io
import json
import logging

import pytest

from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.events import Preparing, StepDone, Warned


def test_the_next_person_gets_a_new_bar() -> None:
    err = io.StringIO()
    bar = LearnBar(Console(json=False, verbose=False, quiet=False, err=err), "1/3 ann")
    bar.show(Preparing(1, 4))
    bar.close()  # ann failed while her views were encoded
    bar.about = "2/3 bob"
    bar.show(Preparing(1, 4))
    bar.show(StepDone(step=1, total=2, loss=1.0, average_loss=1.0, people=None, seconds_left=1.0))
    bar.close()
    bar.about = "3/3 cleo"
    bar.show(Preparing(1, 4))
    bar.close()
    bar.close()
    assert "bob: encoding views" in err.getvalue()
    assert "bob: learning" in err.getvalue()
    assert "cleo: encoding views" in err.getvalue()


def test_a_warning_is_shown_once() -> None:
    err = io.StringIO()
    console = Console(json=False, verbose=False, quiet=False, err=err)
    bar = LearnBar(console, "ann")
    bar.show(Warned("learning starts at the mean"))
    console.warn("learning starts at the mean")  # by the summary at the end
    console.warn("another")
    assert err.getvalue().splitlines() == ["warning: learning starts at the mean", "warning: another"]


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8"])
def test_a_name_that_a_stream_cannot_encode_is_escaped(encoding: str) -> None:
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding, errors="strict") for _ in range(2))
    screen = Console(json=False, verbose=False, quiet=False, out=out, err=err)
    name = "Zoë \u738b \N{GRINNING FACE}"
    with screen.active():
        screen.say(f"word: <{name}>")
        screen.note(f"{name} is learned")
        logging.getLogger("celeb_basis").warning("%s is small", name)
        print(name)
    escaped = name.encode(encoding, "backslashreplace").decode(encoding)
    assert _written(out) == f"word: <{escaped}>\n"
    assert _written(err).splitlines() == [f"{escaped} is learned", f"{escaped} is small", escaped]


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8"])
def test_json_is_json_in_every_encoding(encoding: str) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding, errors="strict")
    shown = {"name": "Zoë \u738b \x81 \N{GRINNING FACE}"}
    Console(json=True, verbose=False, quiet=False, out=out).result(shown)
    assert json.loads(_written(out)) == shown
    assert ("\u738b" in _written(out)) == (encoding == "utf-8")


def _written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    buffer = stream.buffer
    assert isinstance(buffer, io.BytesIO)
    return buffer.getvalue().decode(stream.encoding)
