"""A small face detector, assembled as one ONNX graph that insightface accepts as an SCRFD with five landmarks.

Two published networks do the work, with their own weights:

1. A single-shot detector (Ultra-Light-Fast-Generic-Face-Detector, RFB, input 320x240) proposes boxes with scores, of
   which non-maximum suppression keeps the best of each cluster.
2. MTCNN's third stage, ONet (Zhang et al. 2016), takes a 48x48 crop of every proposal and returns the probability
   of a face, corrections of its box, and its five landmarks. It is run twice: the second time on the box
   of the first, which makes the landmarks more stable.

The output has SCRFD's layout: for strides 8, 16 and 32 a score, four box distances and five landmark
offsets for each of two anchors a cell. The position of an anchor is only a code here, so all candidates use the anchors of
stride 8's first row, and strides 16 and 32 are empty. Scores stay continuous, so that insightface's own detection
threshold and non-maximum suppression decide what is a face.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

WIDTH, HEIGHT = 640, 480
"""The one input size of the detector in pixels; insightface fits every picture into it."""

CANDIDATES = 64
"""Most proposals that ONet looks at. They must fit into the first row of stride 8: ``2 * WIDTH / 8``, less one."""

LEAST_SCORE, MOST_OVERLAP = 0.1, 0.5
"""Of proposals: below the one, or with an intersection over union above the other, ONet is not asked."""

PASSES = 2
"""How often ONet looks, each time at the box that the last look gave."""

_OPSET = 16  # the first whose RoiAlign knows about half pixels
_ONET_SIDE = 48
_STRIDES = (8, 16, 32)
_ANCHORS = 2

Weights = Mapping[str, "np.ndarray[Any, Any]"]


def build_detector(proposals: Path, onet: Weights) -> onnx.ModelProto:
    """Fuse the proposing detector with ONet.

    Args:
        proposals: The ONNX file of the proposing detector.
        onet: Arrays by the parameter names of facenet-pytorch (``conv1.weight``, ``dense6_3.bias``, ...).

    Returns:
        The model. Its input is ``(1, 3, 480, 640)`` RGB, ``(x - 127.5) / 128``, as insightface prepares it. Its nine
        outputs are scores ``(n, 1)``, boxes ``(n, 4)`` and landmarks ``(n, 10)`` of strides 8, 16, 32, in this order.
    """
    import onnx
    from onnx import compose, version_converter

    proposer = version_converter.convert_version(onnx.load(str(proposals)), _OPSET)
    proposer = compose.add_prefix(proposer, "proposals/")
    graph = _Graph(proposer.graph.initializer)
    for name, array in onet.items():
        # PRelu wants its slopes for pictures as (C, 1, 1).
        slopes = name.startswith("prelu") and name != "prelu5.weight"
        graph.store(f"onet/{name}", array.reshape(-1, 1, 1) if slopes else array)

    # The proposer wants (x - 127) / 128 at half our size: near enough to ours.
    graph.node("AveragePool", "image", to="proposals/input", kernel_shape=[2, 2], strides=[2, 2])
    graph.nodes.extend(proposer.graph.node)
    scores, boxes, landmarks = _candidates(graph)
    outputs = [*_by_stride(graph, scores, 1), *_by_stride(graph, boxes, 4), *_by_stride(graph, landmarks, 10)]
    model = graph.model(outputs)
    onnx.checker.check_model(model)
    return model


def _candidates(graph: _Graph) -> tuple[str, str, str]:
    """Score ``(K, 1)``, box distances ``(K, 4)`` and landmark offsets ``(K, 10)`` in cells of stride 8."""
    all_scores = graph.node("Transpose", "proposals/scores", perm=[0, 2, 1])  # (1, 2, 4420)
    all_scores = graph.node("Slice", all_scores, *graph.slice_(1, 2, axis=1))
    limits = (graph.constant([CANDIDATES], np.int64), graph.constant([MOST_OVERLAP]), graph.constant([LEAST_SCORE]))
    kept = graph.node("NonMaxSuppression", "proposals/boxes", all_scores, *limits)  # (K - 1, 3): batch, class, index
    order = graph.node("Gather", kept, graph.constant(2, np.int64), axis=1)
    # One proposal more, whichever: nothing that follows has to cope with none.
    order = graph.node("Concat", order, graph.constant([0], np.int64), axis=0)
    count = graph.node("Shape", order)
    scores = graph.node("Gather", graph.node("Reshape", all_scores, graph.constant([-1], np.int64)), order)
    boxes = graph.node("Gather", graph.node("Squeeze", "proposals/boxes", graph.constant([0], np.int64)), order)
    boxes = graph.node("Mul", boxes, graph.constant([WIDTH, HEIGHT, WIDTH, HEIGHT]))

    for _ in range(PASSES):
        squares, sides = _squares(graph, boxes)
        probability, box_change, points = _onet(graph, squares, count)
        boxes = graph.node("Add", squares, graph.node("Mul", box_change, sides))
        # ONet names landmarks x1..x5, y1..y5, as fractions of the square.
        corner = graph.node("Slice", squares, *graph.slice_(0, 2, axis=1))  # (K, 2)
        points = graph.node("Reshape", points, graph.constant([-1, 2, 5], np.int64))
        points = graph.node("Transpose", points, perm=[0, 2, 1])  # (K, 5, 2)
        points = graph.node("Mul", points, graph.node("Unsqueeze", sides, graph.constant([2], np.int64)))
        points = graph.node("Add", points, graph.node("Unsqueeze", corner, graph.constant([1], np.int64)))

    # Both networks have to agree: the geometric mean of what they say.
    scores = graph.node("Reshape", scores, graph.constant([-1, 1], np.int64))
    scores = graph.node("Sqrt", graph.node("Mul", scores, probability))

    # SCRFD: left = anchor - distance, right = anchor + distance; the anchors are (0, 0), (0, 0), (8, 0), (8, 0), ...
    stride = _STRIDES[0]
    corners = np.zeros((CANDIDATES + 1, 2), np.float32)
    corners[:, 0] = np.arange(CANDIDATES + 1) // _ANCHORS * stride
    zero = graph.constant([0], np.int64)
    anchors = graph.node("Slice", graph.constant(corners), zero, count)  # (K, 2)
    distances = graph.node("Sub", boxes, graph.node("Concat", anchors, anchors, axis=1))
    signs = np.array([-1, -1, 1, 1], np.float32) / stride
    distances = graph.node("Mul", distances, graph.constant(signs))
    offsets = graph.node("Sub", points, graph.node("Unsqueeze", anchors, graph.constant([1], np.int64)))
    offsets = graph.node("Reshape", offsets, graph.constant([-1, 10], np.int64))
    offsets = graph.node("Div", offsets, graph.constant(np.float32(stride)))
    return scores, distances, offsets


def _squares(graph: _Graph, boxes: str) -> tuple[str, str]:
    """Squares ``(K, 4)`` around the middles of boxes, as long as their longer sides, and those sides ``(K, 1)``."""
    low = graph.node("Slice", boxes, *graph.slice_(0, 2, axis=1))
    high = graph.node("Slice", boxes, *graph.slice_(2, 4, axis=1))
    sides = graph.node("ReduceMax", graph.node("Sub", high, low), axes=[1], keepdims=1)
    half = graph.node("Mul", sides, graph.constant(np.float32(0.5)))
    middle = graph.node("Mul", graph.node("Add", low, high), graph.constant(np.float32(0.5)))
    corners = [graph.node("Sub", middle, half), graph.node("Add", middle, half)]
    return graph.node("Concat", *corners, axis=1), sides


def _onet(graph: _Graph, squares: str, count: str) -> tuple[str, str, str]:
    """ONet on squares ``(K, 4)``: probability ``(K, 1)``, box changes ``(K, 4)``, landmarks ``(K, 10)``.

    Changes and landmarks are fractions of the square's side.
    """
    from onnx import numpy_helper

    zeros = graph.node("ConstantOfShape", count, value=numpy_helper.from_array(np.zeros(1, np.int64)))
    # Three samples a pixel each way: an area filter for the faces that are larger than 48 pixels.
    x = graph.node(
        "RoiAlign",
        "image",
        squares,
        zeros,
        coordinate_transformation_mode="half_pixel",
        mode="avg",
        output_height=_ONET_SIDE,
        output_width=_ONET_SIDE,
        sampling_ratio=3,
        spatial_scale=1.0,
    )
    for layer, pool in ((1, 3), (2, 3), (3, 2), (4, 0)):
        x = graph.node("Conv", x, f"onet/conv{layer}.weight", f"onet/conv{layer}.bias")
        x = graph.node("PRelu", x, f"onet/prelu{layer}.weight")
        if pool:
            x = graph.node("MaxPool", x, kernel_shape=[pool, pool], strides=[2, 2], ceil_mode=1)
    # The weights come from a framework that flattens width first and channels last.
    x = graph.node("Flatten", graph.node("Transpose", x, perm=[0, 3, 2, 1]), axis=1)
    x = graph.node("PRelu", graph.dense(x, "onet/dense5"), "onet/prelu5.weight")
    both = graph.node("Softmax", graph.dense(x, "onet/dense6_1"), axis=1)
    probability = graph.node("Slice", both, *graph.slice_(1, 2, axis=1))
    return probability, graph.dense(x, "onet/dense6_2"), graph.dense(x, "onet/dense6_3")


def _by_stride(graph: _Graph, values: str, width: int) -> list[str]:
    """``values (K, width)`` filled up with zeros to stride 8's anchors, and the other strides' zeros."""
    names = []
    for stride in _STRIDES:
        anchors = (HEIGHT // stride) * (WIDTH // stride) * _ANCHORS
        parts = [values] if stride == _STRIDES[0] else []
        zeros = graph.constant(np.zeros((anchors, width), np.float32))
        filled = graph.node("Concat", *parts, zeros, axis=0)
        name = f"{ {1: 'scores', 4: 'boxes', 10: 'landmarks'}[width] }_{stride}"
        names.append(graph.node("Slice", filled, *graph.slice_(0, anchors, axis=0), to=name))
    return names


class _Graph:
    """Collects nodes and constants of an ONNX graph, naming them as they come."""

    def __init__(self, initializers: Any) -> None:
        self.nodes: list[Any] = []
        self._initializers: list[Any] = list(initializers)

    def store(self, name: str, array: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        self._initializers.append(numpy_helper.from_array(np.asarray(array, order="C"), name))
        return name

    def constant(self, value: Any, dtype: Any = np.float32) -> str:
        return self.store(f"constant{len(self._initializers)}", np.asarray(value, dtype))

    def slice_(self, start: int, stop: int, *, axis: int) -> tuple[str, str, str]:
        """The last three inputs of a Slice."""
        starts, stops, axes = (self.constant([value], np.int64) for value in (start, stop, axis))
        return starts, stops, axes

    def dense(self, x: str, name: str) -> str:
        return self.node("Gemm", x, f"{name}.weight", f"{name}.bias", transB=1)

    def node(self, operator: str, *inputs: str, to: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        name = to or f"value{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [name], **attributes))
        return name

    def model(self, outputs: list[str]) -> onnx.ModelProto:
        from onnx import TensorProto, helper

        widths = [1] * 3 + [4] * 3 + [10] * 3
        anchors = [(HEIGHT // stride) * (WIDTH // stride) * _ANCHORS for stride in _STRIDES] * 3
        graph = helper.make_graph(
            self.nodes,
            "face_detector",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])],
            [
                helper.make_tensor_value_info(name, TensorProto.FLOAT, [count, width])
                for name, count, width in zip(outputs, anchors, widths, strict=True)
            ],
            self._initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", _OPSET)], ir_version=8)
