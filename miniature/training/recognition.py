"""The recognition network in torch, with gradients: for the autoencoder's loss and for fast judging in batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ALIGNED = 112
"""Side of the crops that the network takes."""

_STAGES = 6


class RecognitionNetwork(nn.Module):
    """An ONNX graph made of Conv, PRelu, Add and Reshape, run node by node."""

    def __init__(self, path: Path) -> None:
        import onnx
        from onnx import helper, numpy_helper

        super().__init__()
        graph = onnx.load(str(path)).graph
        stored = {tensor.name: numpy_helper.to_array(tensor).copy() for tensor in graph.initializer}
        self._input = next(value.name for value in graph.input if value.name not in stored)
        self._output = graph.output[0].name
        self._buffer_of = {name: f"weight{number}" for number, name in enumerate(stored)}
        for name, array in stored.items():
            weight = torch.from_numpy(array)
            if weight.ndim == 4:
                weight = weight.contiguous(memory_format=torch.channels_last)
            self.register_buffer(self._buffer_of[name], weight)
        self._nodes: list[tuple[str, list[str], str, dict[str, Any]]] = [
            (
                node.op_type,
                list(node.input),
                node.output[0],
                {a.name: helper.get_attribute_value(a) for a in node.attribute},
            )
            for node in graph.node
        ]
        strided = [node[2] for node in self._nodes if node[0] == "PRelu"]
        self._watched = strided[:: max(1, len(strided) // _STAGES)][:_STAGES]

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 512)`` L2-normalized vectors of ``(N, 3, 112, 112)`` RGB crops in -1 to 1."""
        return self.look(x)[0]

    def look(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The embeddings, and intermediate feature maps."""
        values: dict[str, Tensor] = {self._input: x.contiguous(memory_format=torch.channels_last)}
        for kind, inputs, output, attributes in self._nodes:
            arguments = [values[name] if name in values else getattr(self, self._buffer_of[name]) for name in inputs]
            values[output] = _run(kind, arguments, attributes)
        return F.normalize(values[self._output].float(), dim=1), [values[name] for name in self._watched]


def _run(kind: str, arguments: list[Tensor], attributes: dict[str, Any]) -> Tensor:
    x = arguments[0]
    if kind == "Conv":
        pads = attributes.get("pads", [0, 0, 0, 0])
        bias = arguments[2] if len(arguments) > 2 else None
        strides, dilations = attributes.get("strides", [1, 1]), attributes.get("dilations", [1, 1])
        return F.conv2d(x, arguments[1], bias, strides, pads[:2], dilations, attributes.get("group", 1))
    if kind == "PRelu":
        return F.prelu(x, arguments[1].reshape(-1))
    if kind == "Add":
        return x + arguments[1]
    if kind == "Reshape":
        return x.contiguous().reshape(x.shape[0], -1)
    raise NotImplementedError(kind)


def crop_faces(pictures: Tensor, boxes: Tensor) -> Tensor:
    """Crop ``(N, 3, 112, 112)`` faces at boxes ``(N, 3)`` (left, top, width in pixels) from ``(N, 3, H, W)``.

    The square frame of a generated face agrees with that of the recognition network within a pixel or two.
    """
    height, width = pictures.shape[-2:]
    side = boxes[:, 2]
    theta = torch.zeros(len(pictures), 2, 3, dtype=pictures.dtype, device=pictures.device)
    theta[:, 0, 0], theta[:, 1, 1] = side / width, side / height
    theta[:, 0, 2] = (boxes[:, 0] + side / 2) / width * 2 - 1
    theta[:, 1, 2] = (boxes[:, 1] + side / 2) / height * 2 - 1
    grid = F.affine_grid(theta, [len(pictures), 3, ALIGNED, ALIGNED], align_corners=False)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode="border", align_corners=False)
