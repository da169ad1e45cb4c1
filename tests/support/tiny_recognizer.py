"""A tiny face recognizer of random weights, as an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def network_file(path: Path, *, last: str = "Gemm", seed: int = 0) -> Path:
    """A tiny network of every operator that buffalo_l's recognizer has, from 112 pixels to 16 numbers."""
    generator = np.random.default_rng(seed)
    weights: dict[str, np.ndarray[Any, Any]] = {
        "conv": generator.normal(0, 0.2, (4, 3, 3, 3)),
        "bias": generator.normal(0, 0.2, 4),
        "depth": generator.normal(0, 0.3, (4, 1, 3, 3)),
        **{name: generator.normal(1, 0.1, 4) for name in ("scale", "variance")},
        **{name: generator.normal(0, 0.1, 4) for name in ("shift", "mean")},
        "slope": generator.uniform(0, 0.4, (4, 1, 1)),
        "dense": generator.normal(0, 0.1, (16, 4 * 7 * 7)),
        "offset": generator.normal(0, 0.1, 16),
    }
    nodes = [
        helper.make_node("Conv", ["input", "conv", "bias"], ["a"], strides=[4, 4], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "scale", "shift", "mean", "variance"], ["b"], epsilon=2e-5),
        helper.make_node("PRelu", ["b", "slope"], ["c"]),
        helper.make_node("Conv", ["c", "depth"], ["d"], group=4, pads=[0, 1, 2, 1]),
        helper.make_node("Add", ["c", "d"], ["e"]),
        helper.make_node("Conv", ["e", "depth"], ["f"], group=4, strides=[4, 4], dilations=[1, 1], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["f"], ["g"]),
        helper.make_node("Gemm", ["g", "dense", "offset"], ["h"], transB=1, alpha=0.7, beta=1.5),
    ]
    if last != "Gemm":
        nodes.append(helper.make_node(last, ["h"], ["i"]))
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, 112, 112])],
        [helper.make_tensor_value_info(nodes[-1].output[0], TensorProto.FLOAT, ["N", 16])],
        [numpy_helper.from_array(one.astype(np.float32), name) for name, one in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, str(path))
    return path
