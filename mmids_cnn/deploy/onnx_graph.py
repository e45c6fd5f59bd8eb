"""A graph as an ONNX file: written, checked, and run by what others wrote."""

import importlib.util
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mmids_cnn.deploy.nodes import IMAGES, LOGITS, PROBABILITIES, Graph

OPSET = 17
IR_VERSION = 8
"""What runtimes of 2022 and later read."""


def encode(
    graph: Graph, image_shape: Sequence[int], classes: int, version: str, metadata: Mapping[str, str]
) -> bytes:
    """The content of an ONNX file, checked by ONNX's own checker.

    Args:
      graph: the network.
      image_shape: height, width, channels.
      classes: how many there are.
      version: of the project.
      metadata: texts by name, for `metadata_props`.
    """
    import onnx
    from onnx import checker, helper, numpy_helper

    def plain(value: Any) -> Any:
        return helper.np_dtype_to_tensor_dtype(value) if isinstance(value, np.dtype) else value

    nodes = [
        helper.make_node(
            node.op,
            node.inputs,
            [node.output],
            name=node.output,
            **{name: plain(value) for name, value in node.attributes.items()},
        )
        for node in graph.nodes
    ]
    images = helper.make_tensor_value_info(IMAGES, onnx.TensorProto.UINT8, ["n", *image_shape])
    outputs = [
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", classes])
        for name in (LOGITS, PROBABILITIES)
    ]
    constants = [numpy_helper.from_array(np.asarray(x), name) for name, x in graph.constants.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "mmids_cnn", [images], outputs, constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="mmids_cnn",
        producer_version=version,
    )
    helper.set_model_props(made, dict(metadata))
    checker.check_model(made, full_check=True)
    return made.SerializeToString(deterministic=True)


def runtime() -> str:
    """By what a file is run here: onnxruntime where it is installed, else ONNX's own reference."""
    return "onnxruntime" if importlib.util.find_spec("onnxruntime") else "onnx.reference"


def run(content: bytes, images: np.ndarray, batch_size: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Logits and probabilities of images, by what `runtime` names."""
    outputs = [LOGITS, PROBABILITIES]
    if runtime() == "onnxruntime":
        import onnxruntime

        call: Any = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"]).run
    else:
        import onnx
        from onnx import reference

        call = reference.ReferenceEvaluator(onnx.load_model_from_string(content)).run
    starts = range(0, len(images), batch_size)
    parts = [call(outputs, {IMAGES: np.asarray(images[at : at + batch_size])}) for at in starts]
    logits, probabilities = (np.concatenate(each) for each in zip(*parts, strict=True))
    return logits, probabilities
