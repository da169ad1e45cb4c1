"""What of the adapter for Forge needs no Forge: finding out where we are, weights of inference mode, prompts' tokens."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch

from celeb_basis.hosts.a1111.encoder_views import EngineView
from celeb_basis.hosts.detect import adapter, adapter_for
from celeb_basis.hosts.forge.gradients import casting, gradients_through
from celeb_basis.hosts.forge.host import ForgeHost
from celeb_basis.hosts.forge.model import ForgeCheckpoint
from celeb_basis.hosts.torch_utils import NormalWeights, normal_tensor


def test_the_program_is_recognized_by_its_folder(tmp_path: Path) -> None:
    assert adapter_for(tmp_path).name == "AUTOMATIC1111's WebUI"
    (tmp_path / "modules_forge").mkdir()
    assert adapter_for(tmp_path).name == "AUTOMATIC1111's WebUI", "reForge has this too"
    (tmp_path / "backend" / "diffusion_engine").mkdir(parents=True)
    assert adapter_for(tmp_path).name == "Forge"
    assert adapter().name == "AUTOMATIC1111's WebUI", "where there is no program around us"


def test_nothing_of_a_program_is_imported_to_find_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "__init__.py").write_text("raise RuntimeError")
    for folder in ("modules_forge", "backend/diffusion_engine"):
        (tmp_path / folder).mkdir(parents=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "modules", raising=False)
    assert adapter().name == "Forge"


@pytest.fixture
def loaded() -> torch.nn.Module:
    """A module as Forge's loader leaves it."""
    with torch.inference_mode():
        return torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4)).eval()


def test_gradients_pass_weights_of_inference_mode(loaded: torch.nn.Module) -> None:
    x = torch.randn(3, 4, requires_grad=True)
    with pytest.raises(RuntimeError, match="Inference tensors cannot be saved"):
        loaded(x)
    before = dict((*loaded.named_parameters(), *loaded.named_buffers()))
    weights = NormalWeights([loaded])
    weights.enable()
    weights.enable()  # nothing is left to exchange
    now = dict((*loaded.named_parameters(), *loaded.named_buffers()))
    assert all(now[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items()), "something was copied"
    (found,) = torch.autograd.grad(loaded(x).sum(), x)
    weights.restore()
    after = dict((*loaded.named_parameters(), *loaded.named_buffers()))
    assert all(after[name] is tensor for name, tensor in before.items())
    with torch.inference_mode():
        scale = loaded[1].weight / (loaded[1].running_var + loaded[1].eps).sqrt()  # type: ignore[index]
        expected = (scale @ loaded[0].weight).expand(3, 4).clone()  # type: ignore[index]
    torch.testing.assert_close(found, expected)


def test_a_weight_with_two_names_stays_one(loaded: torch.nn.Module) -> None:
    """As the token table of Forge's text encoders, which its wrapper calls its own as well."""
    with torch.inference_mode():
        loaded.table = loaded[0].weight  # type: ignore[index]
    assert len(list(loaded.parameters())) == 4
    weights = NormalWeights([loaded])
    weights.enable()
    assert loaded.table is loaded[0].weight  # type: ignore[index]
    assert len(list(loaded.parameters())) == 4
    weights.restore()
    assert loaded.table is loaded[0].weight  # type: ignore[index]


def test_normal_tensors_stay_themselves() -> None:
    plain = torch.randn(3)
    assert normal_tensor(plain) is plain
    with torch.inference_mode():
        part = torch.randn(4, 6)[1:, ::2]
        alias = normal_tensor(part)
    assert not alias.is_inference()
    assert torch.equal(alias, part)
    assert alias.data_ptr() == part.data_ptr()


class Block(torch.nn.Module):
    """Adds to its input in place, as Forge's own does."""

    prev_parameters_manual_cast: bool

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = torch.nn.LayerNorm(8), torch.nn.LayerNorm(8)
        self.inner = torch.nn.Linear(8, 8)
        self.parameters_manual_cast = False

    def forward(self, x: torch.Tensor, in_place: bool = True) -> torch.Tensor:
        for norm in (self.norm1, self.norm2):
            step = self.inner(norm(x)).tanh()
            x = x.add_(step) if in_place else x + step
        return x


@pytest.mark.parametrize("checkpointing", [False, True])
def test_blocks_that_change_their_input_have_the_right_gradient(
    checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds = types.SimpleNamespace(BasicTransformerBlock=Block, ResBlock=torch.nn.Bilinear)
    monkeypatch.setattr("celeb_basis.hosts.forge.gradients.forge_module", lambda _name: kinds)
    torch.manual_seed(0)
    block = Block()
    x = torch.randn(2, 8, requires_grad=True)
    (expected,) = torch.autograd.grad(block(x * 2, in_place=False).square().sum(), x)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        torch.autograd.grad(block(x * 2).square().sum(), x)
    with gradients_through(block, checkpointing=checkpointing):
        (found,) = torch.autograd.grad(block(x * 2).square().sum(), x)
    torch.testing.assert_close(found, expected)
    assert "forward" not in vars(block)


def casts(block: Block) -> object:
    """Whether its layers cast, read each time: mypy takes an attribute that was compared for constant."""
    return block.parameters_manual_cast


def test_layers_cast_what_is_held_otherwise() -> None:
    block = Block()
    with casting(block, torch.float32):
        assert casts(block) is False
    block.own = torch.nn.Parameter(torch.zeros(1, dtype=torch.float16))
    with casting(block, torch.float32):
        assert casts(block) is True
    assert casts(block) is False


def put_on_the_cpu(block: Block) -> None:
    """As Forge loads a layer that the device has no room for."""
    block.prev_parameters_manual_cast = block.parameters_manual_cast
    block.parameters_manual_cast = True


def fetched_back(block: Block) -> None:
    block.parameters_manual_cast = block.prev_parameters_manual_cast
    del block.prev_parameters_manual_cast


@pytest.fixture
def half_held() -> Block:
    """Weights in another precision than float32."""
    block = Block()
    block.own = torch.nn.Parameter(torch.zeros(1, dtype=torch.float16))
    return block


@pytest.fixture
def crowded() -> list[bool]:
    """Whether Forge finds no room, as it loads."""
    return []


@pytest.fixture
def model(half_held: Block, crowded: list[bool], monkeypatch: pytest.MonkeyPatch) -> ForgeHost:
    """Over a model of one block, in a Forge that loads it."""

    class Model:
        forge_objects_original = types.SimpleNamespace(
            unet=types.SimpleNamespace(model=types.SimpleNamespace(diffusion_model=half_held)),
            clip=types.SimpleNamespace(cond_stage_model=torch.nn.Linear(1, 1), patcher=None),
        )
        sd_checkpoint_info = types.SimpleNamespace(filename="a-model")

    def load(_patchers: Any) -> None:
        if crowded and not hasattr(half_held, "prev_parameters_manual_cast"):
            put_on_the_cpu(half_held)

    model = Model()
    modules = {
        "backend.memory_management": types.SimpleNamespace(
            get_torch_device=lambda: torch.device("cpu"), load_models_gpu=load, cpu_mode=lambda: True
        ),
        "backend.nn.unet": types.SimpleNamespace(BasicTransformerBlock=Block, ResBlock=torch.nn.Bilinear),
    }
    for place in ("host", "gradients", "model"):
        monkeypatch.setattr(f"celeb_basis.hosts.forge.{place}.forge_module", modules.__getitem__)
    monkeypatch.setattr("celeb_basis.hosts.forge.model.text_engine_class", lambda: int)
    monkeypatch.setattr(ForgeCheckpoint, "live_model", lambda: model)
    found = object.__new__(ForgeHost)
    found._training, found._file = None, "a-model"
    return found


def test_layers_on_the_cpu_for_want_of_room_go_on_casting_after_learning(
    model: ForgeHost, half_held: Block, crowded: list[bool]
) -> None:
    crowded.append(True)
    with model.prepare_for_training("fp32"):
        assert casts(half_held) is True
    assert casts(half_held) is True, "its weights are on the CPU still"
    fetched_back(half_held)
    assert casts(half_held) is False


def test_layers_cast_while_learning_but_for_previews(model: ForgeHost, half_held: Block) -> None:
    with model.prepare_for_training("fp32"):
        assert model._training is not None
        assert casts(half_held) is True
        model._training.suspend()
        assert casts(half_held) is False
        model._training.resume(model._checkpoint)
        assert casts(half_held) is True
    assert casts(half_held) is False


def test_layers_that_forge_moved_in_the_meantime_are_as_they_were_once_it_fetches_them_back(half_held: Block) -> None:
    with casting(half_held, torch.float32):
        put_on_the_cpu(half_held)
    assert casts(half_held) is True, "its weights are on the CPU"
    fetched_back(half_held)
    assert casts(half_held) is False


def test_a_person_is_one_token_of_an_engine() -> None:
    person = object()

    class Engine:
        embeddings = types.SimpleNamespace(find_embedding_at_position=lambda *_: (None, None), word_embeddings={})
        chunk_length = 75

        def tokenize(self, texts: list[str]) -> list[list[int]]:
            return [[len(word) for word in text.split()] for text in texts]

        def tokenize_line(self, line: str) -> list[Any]:
            (tokens,) = self.tokenize([line])
            return [
                self.embeddings.find_embedding_at_position(tokens, place)[0] or token
                for place, token in enumerate(tokens)
            ]

    view: Any = EngineView(Engine(), lambda name: person if name == "ada" else None)
    assert Engine.tokenize_line(view, "one <ada>, <eve> two") == [3, person, 1, 5, 3]
    assert view.placed == {person}
    assert view.chunk_length == 75
