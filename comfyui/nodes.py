"""The nodes: their inputs, and calls of what does the work. ComfyUI's interface is that of its first generation of nodes."""

from __future__ import annotations

from typing import Any, ClassVar

from celeb_basis.errors import CelebBasisError
from celeb_basis.hosts.comfyui import app, people
from celeb_basis.hosts.comfyui.host import ComfyHost
from celeb_basis.hosts.comfyui.model import ComfyClip, ComfyModel
from celeb_basis.hosts.comfyui.modules import source_of
from celeb_basis.identities.invention import MAX_SEED
from celeb_basis.settings import PRESETS

PERSON = "CELEB_BASIS_PERSON"
"""The type of a wire that carries a person: an :class:`celeb_basis.identities.identity.Identity`."""

CATEGORY = "Celeb Basis"

MOST_INVENTED = 36
"""People whom one node invents at most."""

USE, AGAIN = "use the one in the library", "learn again"
_PACKS = ("buffalo_l", "antelopev2", "miniature")
_NOBODY = "(nobody yet: learn a person)"

app.register_folders()
people.register_mark()

Inputs = dict[str, Any]


class LearnPerson:
    """Learn a person from a photo on the connected checkpoint, whose weights stay as they are."""

    CATEGORY = CATEGORY
    FUNCTION = "learn"
    OUTPUT_NODE = True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (PERSON, "STRING")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("person", "embedding")
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = (
        "The person, who is in the library now as well.",
        "How any CLIP Text Encode names the person: embedding: with the name of the file in models/embeddings.",
    )
    DESCRIPTION = (
        "Learns a person from one photo, or from a batch of photos, as a word for any prompt. The checkpoint stays as it is: "
        "its weights are frozen."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The inputs, with their ranges."""
        return {
            "required": {
                "image": ("IMAGE", {"tooltip": "A photo of the person, or a batch. The largest face in each counts."}),
                "model": ("MODEL", {"tooltip": "Stable Diffusion 1.x, 2.x or XL. LoRAs in it are learned with."}),
                "clip": ("CLIP", {"tooltip": "The text encoders of the same checkpoint."}),
                "vae": ("VAE", {"tooltip": "The VAE of the same checkpoint."}),
                "name": ("STRING", {"default": "ada", "tooltip": "What the person is called: <name> in prompts."}),
                "preset": (
                    list(PRESETS),
                    {
                        "default": "balanced",
                        "tooltip": "balanced: 200 steps. quick and best first generate known celebrities, once for a "
                        "checkpoint. paper: the paper's own recipe.",
                    },
                ),
                "existing": (
                    [USE, AGAIN],
                    {"tooltip": "What happens if the library has a person of this name already."},
                ),
                "consent": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "label_on": "agreed, or it is me",
                        "label_off": "not confirmed",
                        "tooltip": "Everyone shown has agreed to this, or it is me. Nobody is learned without.",
                    },
                ),
            },
            "optional": {
                "consent_note": (
                    "STRING",
                    {"default": "", "tooltip": "Who agreed, when and how; saved with the person."},
                ),
                "steps": (
                    "INT",
                    {"default": 0, "min": 0, "max": 100_000, "tooltip": "Optimizer steps; 0: the preset's."},
                ),
                "size": (
                    "INT",
                    {
                        "default": 0,
                        "min": 0,
                        "max": 2048,
                        "step": 64,
                        "tooltip": "Side of the training images in pixels; 0: the checkpoint's own. Less needs less memory.",
                    },
                ),
                "faces": (
                    list(_PACKS),
                    {
                        "default": _PACKS[0],
                        "tooltip": "The face models. miniature ships with Celeb Basis and knows little.",
                    },
                ),
                "accept_face_license": (
                    "BOOLEAN",
                    {
                        "default": False,
                        "label_on": "accepted",
                        "label_off": "not accepted",
                        "tooltip": "The face models buffalo_l and antelopev2 are for non-commercial research only. They are "
                        "downloaded once this is accepted, if they are not on this machine.",
                    },
                ),
                "write_embedding": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "Also write an embedding file, which any CLIP Text Encode names as embedding:name.",
                    },
                ),
            },
            "hidden": {"prompt": "PROMPT", "node": "UNIQUE_ID"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, consent: bool | None = None) -> bool | str:
        """Refuse before anything is loaded, if consent is missing."""
        return app.NO_CONSENT if consent is False else True

    @classmethod
    def IS_CHANGED(cls, name: str = "", existing: str = USE, **_: Any) -> str | float:
        """The person's file counts where it is used: another program may have changed it. Who was deleted is not kept."""
        if existing != USE:
            return ""
        # Not math.nan: ComfyUI compares tuples, in which one and the same object equals itself.
        return people.stamp_of_person(name) or float("nan")

    def learn(
        self,
        image: Any,
        model: Any,
        clip: Any,
        vae: Any,
        name: str,
        preset: str,
        existing: str,
        consent: bool,
        consent_note: str = "",
        steps: int = 0,
        size: int = 0,
        faces: str = _PACKS[0],
        accept_face_license: bool = False,
        write_embedding: bool = True,
        prompt: Any = None,
        node: str | None = None,
    ) -> tuple[Any, str]:
        """Learn the person, or use the one in the library."""
        request = app.LearnRequest(
            name=name,
            photos=image,
            preset=preset,
            steps=steps,
            size=size,
            consent=consent,
            consent_note=consent_note,
            replace=existing == AGAIN,
            faces=faces,
            accept_face_license=accept_face_license,
            embedding=write_embedding,
        )

        def opened() -> Any:
            sources = source_of(prompt, node, "model"), source_of(prompt, node, "clip")
            return ComfyHost(ComfyModel(model, clip, vae, *sources))

        return app.learn(request, opened, app.NodeProgress(node))


class LoadPerson:
    """A person of the library."""

    CATEGORY = CATEGORY
    FUNCTION = "load"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (PERSON,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("person",)
    DESCRIPTION = "A person whom you have learned. Press R to see people who were learned a moment ago."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """Everyone in the library, as it is now."""
        try:
            names = list(app.library().names())
        except CelebBasisError:  # the node must appear, and says so when it is run
            names = []
        return {"required": {"person": (names or [_NOBODY], {"tooltip": "The people in the library."})}}

    @classmethod
    def VALIDATE_INPUTS(cls, person: str | None = None) -> bool | str:
        """Refuse a name that is not in the library, with the names that are."""
        if person is None:
            return True
        try:
            app.library().load(person)
        except CelebBasisError as error:
            return str(error)
        return True

    @classmethod
    def IS_CHANGED(cls, person: str = "") -> str:
        """The person's file counts."""
        return people.stamp_of_person(person)

    def load(self, person: str) -> tuple[Any]:
        """Read the person's file."""
        return (app.library().load(person),)


class PersonToPrompt:
    """*CLIP Text Encode* with people in the prompt."""

    CATEGORY = CATEGORY
    FUNCTION = "encode"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("CONDITIONING",)
    DESCRIPTION = (
        "CLIP Text Encode that reads <name> as the person of that name, of the library or connected here, with any checkpoint "
        "of the person's family. <person>, <person_2> and <person_3> mean the connected ones. <name:0.8> is fainter."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The inputs."""
        person = (PERSON, {"tooltip": "Named <person>, or by name; people of the library need not be connected."})
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "Text encoders of Stable Diffusion 1.x, 2.x or XL."}),
                "text": (
                    "STRING",
                    {
                        "multiline": True,
                        "dynamicPrompts": True,
                        "default": "a photo of <person>, smiling",
                        "tooltip": "The prompt, in ComfyUI's syntax, with <name> for a person.",
                    },
                ),
            },
            "optional": {"person": person, "person_2": person, "person_3": person},
            "hidden": {"prompt": "PROMPT", "node": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, text: str | None = None, **_: Any) -> str:
        """The files of the people who are named count."""
        return people.state_of(text or "")

    def encode(
        self,
        clip: Any,
        text: str,
        person: Any = None,
        person_2: Any = None,
        person_3: Any = None,
        prompt: Any = None,
        node: str | None = None,
    ) -> tuple[Any]:
        """Encode the prompt as *CLIP Text Encode* does."""
        given = {"person": person, "person_2": person_2, "person_3": person_3}
        connected = {name: one for name, one in given.items() if one is not None}
        clip_of = ComfyClip(clip, source_of(prompt, node, "clip"))
        return (people.conditioning(text, clip_of, connected, app.NodeProgress(node).say),)


class BlendPeople:
    """A person between two others."""

    CATEGORY = CATEGORY
    FUNCTION = "blend"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (PERSON,)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("person",)
    DESCRIPTION = "The weighted mean of two people, as a person. The consent of both counts."

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The inputs, with their ranges."""
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "Text encoders of the family on which both were learned."}),
                "person": (PERSON, {"tooltip": "The first person."}),
                "person_2": (PERSON, {"tooltip": "The second person."}),
                "amount": (
                    "FLOAT",
                    {
                        "default": 0.5,
                        "min": 0.0,
                        "max": 1.0,
                        "step": 0.05,
                        "tooltip": "0 is the first person, 1 is the second.",
                    },
                ),
                "name": ("STRING", {"default": "blend", "tooltip": "What the blend is called: <name> in prompts."}),
                "keep_radius": (
                    "BOOLEAN",
                    {
                        "default": True,
                        "tooltip": "As distinct from the average as the two; else the blend looks plainer.",
                    },
                ),
                "save": ("BOOLEAN", {"default": False, "tooltip": "Add the blend to the library."}),
                "replace": ("BOOLEAN", {"default": False, "tooltip": "Replace a person of this name in the library."}),
            },
            "hidden": {"prompt": "PROMPT", "node": "UNIQUE_ID"},
        }

    def blend(
        self,
        clip: Any,
        person: Any,
        person_2: Any,
        amount: float,
        name: str,
        keep_radius: bool,
        save: bool,
        replace: bool,
        prompt: Any = None,
        node: str | None = None,
    ) -> tuple[Any]:
        """Blend the two in the connected text encoders' celeb basis."""
        clip_of = ComfyClip(clip, source_of(prompt, node, "clip"))
        parts = [(person, 1 - amount), (person_2, amount)]
        return (people.blended(parts, clip_of, name=name, keep_radius=keep_radius, save=save, replace=replace),)


class InventPerson:
    """People who do not exist, from the celebrities' names alone."""

    CATEGORY = CATEGORY
    FUNCTION = "invent"
    RETURN_TYPES: ClassVar[tuple[str, ...]] = (PERSON, "STRING")
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("person", "name")
    OUTPUT_IS_LIST: ClassVar[tuple[bool, ...]] = (True, True)
    OUTPUT_TOOLTIPS: ClassVar[tuple[str, ...]] = (
        "The person. With a count above 1: one after the other, and all that follows is done for each.",
        "What the person is called.",
    )
    DESCRIPTION = (
        "Invents people who do not exist, from the celebrities' names that the checkpoint knows: no photo, no training. The "
        "same seed and checkpoint give the same person."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The inputs, with their ranges."""
        sexes, regions = people.leanings()
        seed = {"default": 1, "min": 0, "max": MAX_SEED - MOST_INVENTED, "control_after_generate": True}
        share = {"default": 1.0, "min": 0.0, "max": 1.0, "step": 0.05}
        count = {"default": 1, "min": 1, "max": MOST_INVENTED}
        distance = {"default": 1.0, "min": 0.25, "max": 2.0, "step": 0.05}
        return {
            "required": {
                "clip": ("CLIP", {"tooltip": "The text encoders of a checkpoint of Stable Diffusion 1.x, 2.x or XL."}),
                "seed": ("INT", {**seed, "tooltip": "Each seed is another person."}),
                "count": ("INT", {**count, "tooltip": "People: of this seed and the next ones."}),
                "people": (sexes, {"tooltip": "Lean to celebrities who are women or men."}),
                "region": (regions, {"tooltip": "Lean to celebrities from a part of the world."}),
                "name": (
                    "STRING",
                    {"default": "", "tooltip": "What the person is called; empty: a name that no celebrity has."},
                ),
                "save": ("BOOLEAN", {"default": False, "tooltip": "Add the person to the library. For one person."}),
            },
            "optional": {
                "leaning": ("FLOAT", {**share, "tooltip": "How much to lean; 1 leaves out all other celebrities."}),
                "distance": (
                    "FLOAT",
                    {
                        **distance,
                        "tooltip": "From average to peculiar: the distance to the mean celebrity, in the celebrities' own.",
                    },
                ),
                "replace": ("BOOLEAN", {"default": False, "tooltip": "Replace a person of this name in the library."}),
            },
            "hidden": {"prompt": "PROMPT", "node": "UNIQUE_ID"},
        }

    @classmethod
    def IS_CHANGED(cls, name: str = "", save: bool = False, **_: Any) -> str | float:
        """The person's file counts where it is written: who was deleted is saved again."""
        return (people.stamp_of_person(name) or float("nan")) if save and name.strip() else ""

    def invent(
        self, clip: Any, prompt: Any = None, node: str | None = None, **widgets: Any
    ) -> tuple[list[Any], list[str]]:
        """Invent them in the connected text encoders' celeb basis."""
        clip_of = ComfyClip(clip, source_of(prompt, node, "clip"))
        found = people.invented(people.InventRequest(**widgets), clip_of, app.NodeProgress(node).say)
        return found, [one.name for one in found]


class SheetOfPeople:
    """Images of invented people on one sheet."""

    CATEGORY = CATEGORY
    FUNCTION = "lay_out"
    INPUT_IS_LIST = True
    RETURN_TYPES: ClassVar[tuple[str, ...]] = ("IMAGE",)
    RETURN_NAMES: ClassVar[tuple[str, ...]] = ("sheet",)
    DESCRIPTION = (
        "One image of each person with number and name, to choose from, and in how many of them a face was found: if they are "
        "few, the checkpoint does not know the celebrities."
    )

    @classmethod
    def INPUT_TYPES(cls) -> Inputs:
        """The inputs."""
        return {
            "required": {
                "images": ("IMAGE", {"tooltip": "One image of each person."}),
                "person": (PERSON, {"tooltip": "The people, in the order of the images."}),
            },
            "hidden": {"node": "UNIQUE_ID"},
        }

    def lay_out(self, images: Any, person: Any, node: Any = None) -> tuple[Any]:
        """Lay them out in rows of three."""
        sheet, sentence = people.sheet_of(person, images)
        app.NodeProgress(node[0] if node else None).say(sentence)
        return (sheet,)


NODE_CLASS_MAPPINGS: dict[str, Any] = {
    "CelebBasisLearnPerson": LearnPerson,
    "CelebBasisLoadPerson": LoadPerson,
    "CelebBasisPersonToPrompt": PersonToPrompt,
    "CelebBasisBlendPeople": BlendPeople,
    "CelebBasisInventPerson": InventPerson,
    "CelebBasisSheetOfPeople": SheetOfPeople,
}
NODE_DISPLAY_NAME_MAPPINGS: dict[str, str] = {
    "CelebBasisLearnPerson": "Learn person",
    "CelebBasisLoadPerson": "Load person",
    "CelebBasisPersonToPrompt": "Person to prompt",
    "CelebBasisBlendPeople": "Blend people",
    "CelebBasisInventPerson": "Invent person",
    "CelebBasisSheetOfPeople": "Sheet of people",
}
