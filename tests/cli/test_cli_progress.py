"""What stands on the two streams: bars of one person after the other."""

from __future__ import annotations

import io

from celeb_basis.cli.progress import Console, LearnBar
from celeb_basis.learning.events import Preparing, StepDone


def test_a_bar_begins_anew_for_the_next_person() -> None:
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
