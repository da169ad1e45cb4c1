"""Jobs of a host without one: the processing object as far as guidance uses it, and the names in its prompts."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from support.people import person

from celeb_basis.cli.demo import STRANGERS
from celeb_basis.faces.guidance import GuidedBatch
from celeb_basis.identities.identity import save_identity
from celeb_basis.identities.library import IdentityStatus
from celeb_basis.prompts.syntax import bracketed_in


@dataclass
class Job:
    """What is used of the host's processing object."""

    prompts: list[str] = field(default_factory=lambda: ["a photo of <ada>"])
    iteration: int = 0
    comments: list[str] = field(default_factory=list)
    extra_generation_params: dict[str, Any] = field(default_factory=dict)
    guidance: GuidedBatch | None = None
    celeb_basis_places: Any = None

    def __post_init__(self) -> None:
        self.batch_size = len(self.prompts)
        self.all_prompts = self.prompts * (self.iteration + 1)

    def comment(self, text: str) -> None:
        self.comments.append(text)


class Names:
    """The names in the host's prompts. As in the host, what they keep of people has no photo."""

    registry: Any = None

    def __init__(self, folder: Path) -> None:
        photo = STRANGERS[0].read_bytes()
        people = [
            person("ada", thumbnail=photo),
            person("ben", thumbnail=STRANGERS[1].read_bytes()),
            person("eve", source="invented"),
            person("sam"),
        ]
        self.people = {}
        for one in people:
            save_identity(one, path := folder / f"{one.name}.safetensors")
            kept = replace(one, metadata=replace(one.metadata, thumbnail=None))
            self.people[one.name] = IdentityStatus(one.name, path, kept)
        self.people["xl"] = IdentityStatus("xl", Path(), reason="It was learned on SDXL.")

    def mentioned(self, *prompts: str) -> tuple[IdentityStatus, ...]:
        tags = [tag.partition(":")[0] for prompt in prompts for tag in bracketed_in(prompt)]
        return tuple(self.people[tag] for tag in dict.fromkeys(tags) if tag in self.people)
