"""The recognizer of a face model pack in torch, and alignment, with gradients down to the pixels of a picture.

:class:`Recognizer` runs the pack's own ONNX graph node by node; :func:`align` is the alignment of
:meth:`celeb_basis.faces.network.FaceNetwork.align` as a function of the picture that can be differentiated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from celeb_basis.errors import FacePackError
from celeb_basis.faces.network import Floats

SIDE = 112
"""Pixels of the aligned crops that recognizers take."""

TEMPLATE = (
    (38.2946, 51.6963),
    (73.5318, 51.5014),
    (56.0252, 71.7366),
    (41.5493, 92.3655),
    (70.7299, 92.2041),
)
"""Where ArcFace networks expect the five landmarks in a crop: x and y in pixels."""

_HALF_RANGE = 127.5
"""Pictures in -1 to 1 are pixels minus this, divided by it."""

_Attributes: TypeAlias = Mapping[str, Any]
_Tensors: TypeAlias = Sequence[torch.Tensor]


@dataclass(frozen=True)
class _Node:
    kind: str
    inputs: tuple[str, ...]
    output: str
    attributes: _Attributes


class Recognizer(torch.nn.Module):
    """An ONNX graph of the operators that ArcFace's residual networks consist of, frozen, in float32."""

    def __init__(self, file: Path, *, mean: float = _HALF_RANGE, std: float = _HALF_RANGE) -> None:
        """Read the graph.

        Args:
            file: The recognizer's ONNX file.
            mean: What is subtracted from pixels of 0 to 255 before the graph.
            std: What they are divided by after that.

        Raises:
            FacePackError: If the file cannot be read, or the graph has an operator that is not known here.
        """
        super().__init__()
        import onnx
        from onnx import helper, numpy_helper

        try:
            graph = onnx.load(str(file), load_external_data=False).graph
            stored = {one.name: numpy_helper.to_array(one).copy() for one in graph.initializer}
            nodes = [_node(one, helper.get_attribute_value) for one in graph.node]
            given = [one.name for one in graph.input if one.name not in stored]
            self._input, self._output = given[0], graph.output[0].name
        except Exception as error:  # protobuf's errors and onnx's have no common base
            raise FacePackError(
                f"The recognizer {file} cannot be read as an ONNX graph: get the pack again."
            ) from error
        if unknown := sorted({one.kind for one in nodes} - set(_OPERATORS)):
            raise FacePackError(
                f"The recognizer {file} has the operator {unknown[0]}, which face guidance cannot differentiate: use the "
                "pack buffalo_l or antelopev2."
            )
        self._nodes = tuple(nodes)
        self._scale, self._shift = _HALF_RANGE / std, (_HALF_RANGE - mean) / std
        self._places = {name: f"weight{number}" for number, name in enumerate(stored)}
        for name, array in stored.items():
            self.register_buffer(self._places[name], torch.from_numpy(np.atleast_1d(array)))
        self._last_use = {name: place for place, one in enumerate(nodes) for name in one.inputs}

    def forward(self, crops: torch.Tensor) -> torch.Tensor:
        """Face vectors of aligned crops.

        Args:
            crops: ``(N, 3, 112, 112)`` float32 RGB in [-1, 1].

        Returns:
            ``(N, 512)``, L2-normalized.
        """
        values = {self._input: crops * self._scale + self._shift}
        for place, node in enumerate(self._nodes):
            given = [values[name] if name in values else getattr(self, self._places[name]) for name in node.inputs]
            values[node.output] = _OPERATORS[node.kind](given, node.attributes)
            for name in node.inputs:
                if self._last_use[name] == place:
                    values.pop(name, None)
        return F.normalize(values[self._output], dim=1)


def align(pictures: torch.Tensor, landmarks: Floats) -> torch.Tensor:
    """Align one face, differentiably in the picture: a similarity transform, bilinear, black outside of the picture.

    Args:
        pictures: ``(N, 3, H, W)`` RGB in [-1, 1].
        landmarks: ``(5, 2)`` x, y in pixels, the same for all pictures.

    Returns:
        ``(N, 3, 112, 112)`` in [-1, 1].
    """
    height, width = pictures.shape[-2:]
    scale, shift = _onto_picture(landmarks)
    at = np.arange(SIDE)
    places = scale * (at[None, :] + 1j * at[:, None]) + shift
    grid = np.stack([places.real / max(width - 1, 1), places.imag / max(height - 1, 1)], axis=-1) * 2 - 1
    chosen = torch.from_numpy(grid).to(pictures)[None].expand(len(pictures), -1, -1, -1)
    # Zeros are gray in this range, so black is what is sampled around the picture.
    return F.grid_sample(pictures + 1, chosen, mode="bilinear", padding_mode="zeros", align_corners=True) - 1


def _onto_picture(landmarks: Floats) -> tuple[complex, complex]:
    """Where places of a crop lie in the picture, as ``z -> a z + b`` of complex numbers ``x + iy``.

    It inverts the least-squares similarity that maps the landmarks onto the template, which needs no SVD in the plane.
    """
    found, wanted = (np.asarray(one, np.float64) @ (1, 1j) for one in (landmarks, TEMPLATE))
    around, spread = found - found.mean(), wanted - wanted.mean()
    forward = complex(np.vdot(around, spread))
    scale = float(np.vdot(around, around).real) / forward if forward else 0j  # 0 for landmarks that are one place
    return scale, complex(found.mean() - scale * wanted.mean())


def _node(node: Any, value_of: Callable[[Any], Any]) -> _Node:
    return _Node(node.op_type, tuple(node.input), node.output[0], {one.name: value_of(one) for one in node.attribute})


# Operators, as ONNX defines them


def _conv(given: _Tensors, attributes: _Attributes) -> torch.Tensor:
    top, left, bottom, right = attributes.get("pads", (0, 0, 0, 0))
    picture, padding = given[0], (top, left)
    if (top, left) != (bottom, right):
        picture, padding = F.pad(picture, (left, right, top, bottom)), (0, 0)
    return F.conv2d(
        picture,
        given[1],
        given[2] if len(given) > 2 else None,
        attributes.get("strides", (1, 1)),
        padding,
        attributes.get("dilations", (1, 1)),
        attributes.get("group", 1),
    )


def _batch_norm(given: _Tensors, attributes: _Attributes) -> torch.Tensor:
    values, weight, bias, mean, variance = given
    return F.batch_norm(values, mean, variance, weight, bias, eps=attributes.get("epsilon", 1e-5))


def _gemm(given: _Tensors, attributes: _Attributes) -> torch.Tensor:
    first, second = given[0], given[1]
    first = first.T if attributes.get("transA") else first
    second = second.T if attributes.get("transB") else second
    product: torch.Tensor = attributes.get("alpha", 1.0) * (first @ second)
    if len(given) > 2:
        product = product + attributes.get("beta", 1.0) * given[2]
    return product


_OPERATORS: Mapping[str, Callable[[_Tensors, _Attributes], torch.Tensor]] = {
    "Add": lambda given, _: given[0] + given[1],
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Dropout": lambda given, _: given[0],
    "Flatten": lambda given, _: given[0].flatten(1),
    "Gemm": _gemm,
    "Identity": lambda given, _: given[0],
    "PRelu": lambda given, _: F.prelu(given[0], given[1].reshape(-1)),
    "Relu": lambda given, _: F.relu(given[0]),
    # Only to flatten, in the networks that are known: one row for each crop.
    "Reshape": lambda given, _: given[0].flatten(1),
}
