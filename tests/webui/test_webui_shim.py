"""The adapter's own small parts, where no WebUI is."""

from __future__ import annotations

import contextlib
import importlib.util
import subprocess
import sys
from types import SimpleNamespace

import pytest

from celeb_basis.errors import HostError
from celeb_basis.hosts.a1111.host import A1111Host
from celeb_basis.hosts.a1111.modules import host_module, lora_module, replaced


@pytest.mark.skipif(importlib.util.find_spec("modules") is not None, reason="a package called modules is installed")
def test_outside_a_webui_it_says_so_in_a_sentence() -> None:
    for ask in (A1111Host, lambda: host_module("shared")):
        with pytest.raises(HostError, match=r"^The module modules of AUTOMATIC1111's WebUI was not found: .*\.$"):
            ask()
    assert lora_module() is None


def test_importing_it_loads_neither_torch_nor_a_host() -> None:
    code = "import sys, celeb_basis.hosts.a1111; print([n for n in ('torch', 'modules', 'gradio') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_replaced_attributes_come_back_and_foreign_ones_go() -> None:
    class Kind:
        inherited = 1

    thing = Kind()
    thing.own = 2  # type: ignore[attr-defined]
    with contextlib.suppress(RuntimeError), replaced(thing, own=3, inherited=4, added=5):
        assert vars(thing) == {"own": 3, "inherited": 4, "added": 5}
        raise RuntimeError
    assert vars(thing) == {"own": 2}
    assert thing.inherited == 1


def test_replaced_bears_that_somebody_took_the_attribute_away() -> None:
    thing = SimpleNamespace()
    with replaced(thing, added=1):
        del thing.added
    assert vars(thing) == {}
