"""The parts of an ONNX model that is being made: nodes, constants, names."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

LAYER_MARK = "#"
"""Between a layer's name and a number, in the names of its nodes."""


@dataclass
class Build:
    """The parts of the model that is made.

    Attributes:
        two_bit_types: Whether the model may use ONNX's 2-bit types.
        nodes: In the order they run.
        values: Constants by name.
        names: For each mark's result, the name of what took its place.
        inputs: For each value and quantization, the names of the quantized value and of its scale.
        named: Whether nodes are named after the layer that they are of.
        layer: The layer whose nodes are being added; empty for none.
        calls: How often a name was asked for.
        shared: Results of nodes that are added once only.
        count: Of names made up so far.
    """

    two_bit_types: bool
    nodes: list[Any] = field(default_factory=list)
    values: dict[str, Any] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    inputs: dict[tuple[str, float, int, int, bool], tuple[str, str]] = field(default_factory=dict)
    named: bool = False
    layer: str = ""
    calls: Counter[str] = field(default_factory=Counter)
    shared: dict[tuple[object, ...], str] = field(default_factory=dict)
    count: int = 0

    def value(self, name: str, array: npt.NDArray[Any], dtype: int | None = None) -> str:
        """Keep a constant under a name; `dtype` is an ONNX type narrower than a byte."""
        from onnx import helper, numpy_helper

        if name not in self.values:
            if dtype is None:
                self.values[name] = numpy_helper.from_array(np.array(array, order="C"), name)
            else:
                narrow = array.astype(helper.tensor_dtype_to_np_dtype(dtype))
                self.values[name] = numpy_helper.from_array(narrow, name)
        return name

    def node(self, operator: str, inputs: Sequence[str], output: str | None = None, **attributes: Any) -> str:
        """Add a node and return the name of its result."""
        from onnx import helper

        output = self.result() if output is None else output
        self.add(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def add(self, node: Any) -> None:
        """Add a node; its name tells which layer it is of."""
        node.name = f"{self.layer}{LAYER_MARK}{len(self.nodes)}" if self.named and self.layer else ""
        self.nodes.append(node)

    def once(self, operator: str, inputs: Sequence[str], **attributes: int) -> str:
        """Add a node unless there is one of the same inputs, and return the name of its result."""
        key = (operator, *inputs, *sorted(attributes.items()))
        if key not in self.shared:
            self.shared[key] = self.node(operator, inputs, None, **attributes)
        return self.shared[key]

    def call(self, name: str) -> str:
        """Return a name, with a number behind it if it was asked for before."""
        self.calls[name] += 1
        return name if self.calls[name] == 1 else f"{name}.{self.calls[name] - 1}"

    def result(self) -> str:
        """Return a name that nothing has yet."""
        self.count += 1
        return f"q{self.count}"

    def unit(self) -> str:
        """Return the name of the scale 1."""
        return self.value("evoq.unit", np.array(1, dtype=np.float32))
