"""reForge around the model: as the WebUI's."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from celeb_basis.diffusion_model import ModelInfo
from celeb_basis.hosts.a1111.app import A1111App
from celeb_basis.hosts.a1111.model import checkpoint_name
from celeb_basis.hosts.a1111.prompts import HostTokens, LoadedCheckpoint
from celeb_basis.hosts.reforge.model import family_of, resolution_of
from celeb_basis.hosts.torch_utils import ordinary_tensors
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.registry import Checkpoint

if TYPE_CHECKING:
    from celeb_basis.diffusion_model import DiffusionModel
    from celeb_basis.hosts.a1111.app import Adapter, HostApp, Tokens
    from celeb_basis.prompts.registry import Checkpoint, Registry


class ReForgeApp(A1111App):
    """Stable Diffusion WebUI reForge."""

    def loaded_model(self) -> DiffusionModel:
        """The loaded checkpoint behind the core's interface."""
        from celeb_basis.hosts.reforge import ReForgeHost

        return ReForgeHost()

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        """What tells the checkpoint that is loaded."""
        return LoadedInReForge()


# FOLDED: Stable Diffusion WebUI reForge.


class ReForge:
    """reForge keeps the WebUI's page, queue, prompts and text encoders, and has a denoiser of its own."""

    name = "reForge"

    def program(self) -> HostApp:

        return ReForgeApp()

    def install_tokens(self, registry: Registry) -> Tokens:
        from celeb_basis.hosts.a1111.prompts import install

        return install(registry, ReForgeTokens)

    def installed_tokens(self) -> Tokens | None:
        from celeb_basis.hosts.a1111.prompts import installed

        return installed(ReForgeTokens)


if TYPE_CHECKING:
    _FITS: type[Adapter] = ReForge  # the type checker's proof that the interface is met


# FOLDED: ``<name>`` in reForge's prompts, which are the WebUI's; only what checkpoint is loaded is told otherwise.


class LoadedInReForge(LoadedCheckpoint):
    """As in the WebUI; models of other kinds have a family that no person is of."""

    def info(self, model: Any, sha256: str) -> ModelInfo:
        if getattr(model, "is_sd3", False) or not hasattr(model, "get_learned_conditioning"):
            return ModelInfo(checkpoint_name(model), "sd3", sha256, 1024)
        return ModelInfo(checkpoint_name(model), family_of(model), sha256, resolution_of(model))


class ReForgeTokens(HostTokens):
    """The people of one registry as words of reForge's prompts."""

    supported = "reForge's branch main of 2025 or later"

    # reForge draws in torch's inference mode.

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        with ordinary_tensors():
            return super().mentioned(*prompts)

    def view_of(self, encoder: Any, find: Callable[[str], Any]) -> Any:
        def find_ordinary(text: str) -> Any:
            with ordinary_tensors():
                return find(text)

        return super().view_of(encoder, find_ordinary)

    def loaded_checkpoint(self) -> Callable[[], Checkpoint | None]:
        return LoadedInReForge()
