"""The least that a training step has to do on a card: forward and backward of frozen text encoders and UNet."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from celeb_basis.hosts.diffusers import DiffusersHost
from celeb_basis.method import add_noise, prediction_target
from celeb_basis.training.trainer import Trainer

_SCALE = 1024.0
"""Of the loss, as half precision needs it."""


class BareStep:
    """Calls the modules of transformers and diffusers directly, with everything already on the card.

    Args:
        host: The checkpoint. Its weights must be frozen when this is called.
        trainer: Whose next batch is computed. Its state stays as it is.
    """

    def __init__(self, host: DiffusersHost, trainer: Trainer) -> None:
        pipeline = host._pipeline
        self._unet = pipeline.unet
        second = getattr(pipeline, "text_encoder_2", None)
        self._models = [pipeline.text_encoder, *([] if second is None else [second])]
        self._with_pooled = second is not None
        state = trainer.generator.get_state()
        batch = trainer.sample_batch()
        trainer.generator.set_state(state)
        device, dtype, schedule = host.device, host.dtype, trainer.model.schedule
        with torch.no_grad():
            per_sample = [trainer.token_vectors(one) for one in trainer.coefficients(batch)]
        noisy = add_noise(schedule, batch.clean, batch.noise, batch.timesteps)
        self._noisy = noisy.to(device, dtype)
        self._target = prediction_target(schedule, batch.clean, batch.noise, batch.timesteps).to(device)
        self._timesteps = batch.timesteps.to(device)
        tokenizers = [pipeline.tokenizer, getattr(pipeline, "tokenizer_2", None)]
        self._encoded: list[tuple[Any, Any, torch.Tensor]] = []
        for which, tokenizer in enumerate(tokenizers[: len(self._models)]):
            ids, places = _tokenized(tokenizer, batch.prompts, len(per_sample[0][which]))
            vectors = torch.cat([one[which] for one in per_sample]).to(device, dtype).requires_grad_()
            self._encoded.append((ids.to(device), places.to(device), vectors))
        side = self._noisy.shape[-1] * host.memory().vae_scale_factor
        rows = [[side, side, 0, 0, side, side]] * len(batch.prompts)
        self._time_ids = torch.tensor(rows, device=device, dtype=dtype)

    def __call__(self) -> float:
        """The loss; the gradients are left in the token vectors."""
        for _, _, vectors in self._encoded:
            vectors.grad = None
        loss = self.loss()
        (loss * _SCALE).backward()  # type: ignore[no-untyped-call]
        return float(loss.detach())

    def loss(self) -> torch.Tensor:
        """The loss with the graph behind it."""
        states, pooled = [], None
        for model, (ids, places, vectors) in zip(self._models, self._encoded, strict=True):

            def replace(_module: Any, _inputs: Any, embedded: Any, at: Any = places, by: Any = vectors) -> Any:
                return embedded.index_put((at[0], at[1]), by)

            hook = model.get_input_embeddings().register_forward_hook(replace)
            try:
                output = model(ids, output_hidden_states=self._with_pooled)
            finally:
                hook.remove()
            states.append(output.hidden_states[-2] if self._with_pooled else output[0])
            if self._with_pooled and output[0].ndim == 2:
                pooled = output[0]
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": self._time_ids}
        predicted = self._unet(
            self._noisy,
            self._timesteps,
            encoder_hidden_states=torch.cat(states, dim=-1),
            added_cond_kwargs=added,
            return_dict=False,
        )[0]
        return functional.mse_loss(predicted.float(), self._target)


def _tokenized(tokenizer: Any, prompts: list[str], vectors: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids ``(B, 77)`` of training prompts, and the rows and columns ``(2, B * E)`` of their token vectors."""
    rows, columns, all_ids = list[int](), list[int](), []
    for row, prompt in enumerate(prompts):
        before, after = (tokenizer(part, add_special_tokens=False).input_ids for part in prompt.split(f"<view{row}>"))
        ids = [tokenizer.bos_token_id, *before, *[0] * vectors, *after][:76]
        ids.append(tokenizer.eos_token_id)
        rows += [row] * vectors
        columns += range(1 + len(before), 1 + len(before) + vectors)
        all_ids.append(ids + [tokenizer.pad_token_id] * (77 - len(ids)))
    return torch.tensor(all_ids), torch.tensor([rows, columns])
