"""The int8 form: standard ONNX that runtimes run in their integer kernels.

A runtime fuses a product into an integer kernel where its input and weights come from a DequantizeLinear each, its bias
from one of int32, and where a QuantizeLinear alone reads its result. So every quantization moves as far to the front as
it can without a change of its result: in front of what only moves values (a reshape, a max pool, a join), and in front
of clips, which become bounds of the levels behind it. Fewer than 8 bits are such bounds as well: all levels of inputs
and results are uint8, the type that integer kernels have.

The graph is walked twice. Backwards, readers say in which forms they want each value: in float, or as levels.
Forwards, each node is written in every form that is wanted of it.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from evoq_moo.errors import NetworkError
from evoq_moo.export._job import Choice, Job
from evoq_moo.export._packing import container_of
from evoq_moo.export._products import PRODUCTS, LayerPlan, array_of
from evoq_moo.export._template import BIAS, DOMAIN, INPUT, WEIGHT
from evoq_moo.export._weights import float_weight, stored_levels
from evoq_moo.graph import Product
from evoq_moo.quantizer import LayerParameters, activation_range, arithmetic

_MOVES = {
    "Concat",
    "Expand",
    "Flatten",
    "Gather",
    "Identity",
    "MaxPool",
    "Pad",
    "Reshape",
    "Slice",
    "Split",
    "Squeeze",
    "Tile",
    "Transpose",
    "Unsqueeze",
}
"""Operators that compute nothing: quantizing in front of them is quantizing behind them."""
_TOP = activation_range(8)[1]


class Levels(NamedTuple):
    """Affine levels of a tensor, held as uint8.

    Attributes:
        scale: Step (float32 value).
        zero_point: Level of zero.
        lowest: The lowest level.
        highest: The highest level.
    """

    scale: float
    zero_point: int
    lowest: int = 0
    highest: int = _TOP

    @property
    def grid(self) -> tuple[float, int]:
        """Scale and zero point."""
        return self.scale, self.zero_point

    def within(self, low: float | None, high: float | None) -> "Levels":
        """Return the levels of values that were clipped before."""
        lowest = self.lowest if low is None else min(max(self.lowest, self._of(low)), self.highest)
        highest = self.highest if high is None else max(min(self.highest, self._of(high)), lowest)
        return self._replace(lowest=lowest, highest=highest)

    def _of(self, value: float) -> int:
        steps = np.rint(np.float32(value) * np.reciprocal(np.float32(self.scale)))
        return int(np.clip(float(steps) + self.zero_point, 0, _TOP))


Form = Levels | None
"""In what form a value is wanted; None: in float."""


def input_levels(p: LayerParameters) -> Form:
    """Return the levels of a layer's input; None where it stays float."""
    if p.activation_scale is None or p.activation_zero_point is None:
        return None
    step = float(np.float32(p.activation_scale))
    return Levels(step, p.activation_zero_point, *activation_range(p.activation_bits))


def is_depthwise(layer: Product) -> bool:
    """Return whether each output channel reads one input channel: kernels of such products never saturate."""
    return layer.geometry.groups > 1 and layer.weight.shape[1] == 1 and layer.geometry.groups == len(layer.weight)


def int8_plans(choice: Choice) -> list[LayerPlan]:
    """Return how each layer is written.

    Weights of a product of integers are shifted left to 7 bits, as the levels of biases count them.
    """
    guarded = choice.target.guarded
    plans = []
    for p, layer in zip(choice.shipment.layers, choice.shipment.products, strict=True):
        unsigned = guarded and p.activation_bits == 8 and not is_depthwise(layer)
        container = container_of(
            p.weight_bits, packed=choice.packed, two_bit_types=choice.two_bit_types, unsigned=unsigned
        )
        if not choice.packed and p.weight_bits < 8:
            container = "int8"
        shift = max(0, arithmetic.SHIFTED_BITS - p.weight_bits) if p.is_integer else 0
        plans.append(LayerPlan(p, layer, container, exact=False, base=1, digits=1, shift=shift))
    return plans


def write_int8(job: Job) -> None:
    """Write a network's nodes in the int8 form.

    Raises:
        NetworkError: The graph holds an operator outside standard ONNX.
    """
    _Writer(job).write()


class _Writer:
    """Writes a network's nodes in the int8 form.

    Args:
        job: What is written.
    """

    def __init__(self, job: Job) -> None:
        from onnx import numpy_helper

        self._graph = job.model.graph
        self._build = job.build
        self._plans = job.plans
        self._folded = job.choice.target.folded
        self._places = job.results
        self._results = {p.name: Levels(p.scale, p.zero_point) for p in job.choice.shipment.results}
        self._constants = {t.name: t for t in self._graph.initializer}
        self._array = numpy_helper.to_array
        self._outputs = {value.name for value in self._graph.output}
        self._wanted: dict[str, dict[Form, None]] = {}
        self._names: dict[tuple[str, Form], str] = {}
        self._grids: dict[tuple[float, int], str] = {}
        self._raw: dict[tuple[str, float, int], str] = {}
        self._weights: dict[str, tuple[int, tuple[int, ...] | None]] = {}
        self._biases: dict[str, int] = {}
        self._parts: dict[tuple[int, bool, tuple[int, ...] | None], str] = {}

    def write(self) -> None:
        """Write all nodes."""
        self._find_weights()
        for name in self._outputs:
            self._want(name, None)
        for node in reversed(self._graph.node):
            self._plan(node)
        self._write_leaves()
        for node in self._graph.node:
            self._write(node)

    def _find_weights(self) -> None:
        for node in self._graph.node:
            if node.domain not in ("", DOMAIN):
                raise NetworkError(f"network: needs {node.domain}.{node.op_type}, which standard ONNX lacks")
            if node.domain == DOMAIN and node.op_type == WEIGHT:
                self._weights[node.output[0]] = (_index(node), None)
            elif node.domain == DOMAIN and node.op_type == BIAS:
                self._biases[node.output[0]] = _index(node)
            elif node.op_type == "Transpose" and node.input[0] in self._weights:
                layer, first = self._weights[node.input[0]]
                if first is None:
                    self._weights[node.output[0]] = (layer, tuple(node.attribute[0].ints))

    # Backwards: what is wanted of each value.

    def _want(self, name: str, form: Form) -> None:
        if name:
            self._wanted.setdefault(name, {})[form] = None

    def _forms(self, node: Any) -> tuple[Form, ...]:
        """Return the forms in which any of a node's results is wanted; float where only its shape is."""
        names = [name for name in node.output if name in self._wanted]
        if names and not any(self._wanted[name] for name in names):
            self._wanted[names[0]][None] = None
        return tuple(dict.fromkeys(form for name in names for form in self._wanted[name]))

    def _wanted_of(self, name: str) -> tuple[Form, ...]:
        return tuple(self._wanted.get(name, ()))

    def _plan(self, node: Any) -> None:
        if node.output[0] in self._weights or node.output[0] in self._biases:
            return
        forms = self._forms(node)
        if not forms:
            return
        if node.domain == DOMAIN:
            self._plan_mark(node, forms)
        elif node.op_type == "Shape":
            # Any form has the shape: none is wanted for it but where there is no other.
            self._wanted.setdefault(node.input[0], {})
        elif self._clip(node) is not None or self._moves(node):
            data, rest = self._data(node)
            for form in forms:
                inner = form if form is None else form.within(*self._clip(node) or (None, None))
                for name in data:
                    self._want(name, inner)
            for name in rest:
                self._want(name, None)
        else:
            multiplied = self._multiplied(node)
            for i, name in enumerate(node.input):
                own = multiplied is not None and (name in self._weights or name in self._biases) and i > 0
                if not own:
                    self._want(name, None)

    def _plan_mark(self, node: Any, forms: Iterable[Form]) -> None:
        source = node.input[0]
        own = self._own(node)
        if own is None:
            for form in forms:
                self._want(source, form)
            return
        self._want(source, own)
        if node.op_type == INPUT:
            name = f"{self._plans[_index(node)].p.name}.input"
        else:
            name = f"{self._places[_index(node)]}.result"
        self._grids.setdefault(own.grid, name)

    def _own(self, node: Any) -> Form:
        """Return the levels that a mark asks for; None where it changes nothing."""
        if node.op_type == INPUT:
            return input_levels(self._plans[_index(node)].p)
        return self._results.get(self._places[_index(node)])

    def _multiplied(self, node: Any) -> int | None:
        """Return the layer whose product a node is, if any."""
        found = self._weights.get(node.input[1]) if node.op_type in PRODUCTS and len(node.input) > 1 else None
        return None if found is None else found[0]

    def _clip(self, node: Any) -> tuple[float | None, float | None] | None:
        """Return the bounds of a node that only clips to constants, or None for any other."""
        if node.op_type == "Relu":
            return (0.0, None)
        if node.op_type != "Clip":
            return None
        bounds: list[float | None] = []
        for i in (1, 2):
            name = node.input[i] if len(node.input) > i else ""
            if name and name not in self._constants:
                return None
            bounds.append(float(self._array(self._constants[name])) if name else None)
        return bounds[0], bounds[1]

    def _moves(self, node: Any) -> bool:
        """Return whether a node only moves values."""
        if node.op_type == "MaxPool":
            return len(node.output) == 1
        if node.op_type != "Pad":
            return node.op_type in _MOVES
        if any(a.name == "mode" and a.s != b"constant" for a in node.attribute):
            return True
        value = node.input[2] if len(node.input) > 2 else ""
        return not value or (value in self._constants and not self._array(self._constants[value]).any())

    def _data(self, node: Any) -> tuple[list[str], list[str]]:
        """Return what a node moves, and its other inputs."""
        if node.op_type == "Concat":
            return list(node.input), []
        rest = [] if node.op_type == "Pad" else list(node.input[2:])
        return [node.input[0]], [*node.input[1:2], *rest]

    def _is_integer(self, node: Any, plan: LayerPlan) -> bool:
        """Return whether a runtime has an integer kernel for a product.

        Convolutions have one only where levels are all that is read of them; none are transposed.
        """
        if not plan.p.is_integer or plan.layer.geometry.transposed:
            return False
        forms = self._wanted.get(node.output[0], {})
        return node.op_type != "Conv" or (None not in forms and len({f.grid for f in forms if f is not None}) == 1)

    # Forwards: nodes.

    def _write_leaves(self) -> None:
        """Write the quantization of inputs and constants."""
        for name in [*(value.name for value in self._graph.input), *self._constants]:
            self._names[name, None] = name
            self._quantize(name)

    def _write(self, node: Any) -> None:
        build = self._build
        if node.domain == DOMAIN and node.op_type in {WEIGHT, BIAS}:
            return
        if node.output[0] in self._weights:
            return
        if not any(name in self._wanted for name in node.output):
            return
        build.layer = ""
        if node.domain == DOMAIN:
            self._write_mark(node)
        elif node.op_type == "Shape":
            form = next((form for form in self._wanted[node.input[0]] if form is not None), None)
            self._copy(node, [self._names[node.input[0], form]], None)
        elif self._clip(node) is not None or self._moves(node):
            self._write_move(node)
        else:
            multiplied = self._multiplied(node)
            if multiplied is None:
                self._copy(node, [self._float(name) for name in node.input], None)
            else:
                self._write_product(node, self._plans[multiplied], multiplied)
            for name in node.output:
                self._quantize(name)

    def _float(self, name: str) -> str:
        """Return the name of a value in float."""
        if not name:
            return name
        if name in self._weights:
            return self._weight(*self._weights[name], integer=False)
        if name in self._biases:
            return self._bias(self._plans[self._biases[name]])
        return self._names[name, None]

    def _result(self, name: str, form: Form = None) -> str:
        """Return a new name for a value in a form; outputs in float keep theirs."""
        found = name if form is None and name in self._outputs else self._build.result()
        self._names[name, form] = found
        return found

    def _copy(self, node: Any, inputs: Sequence[str], form: Form) -> None:
        """Add a node with other inputs."""
        from onnx import NodeProto

        copied = NodeProto()
        copied.CopyFrom(node)
        del copied.input[:]
        copied.input.extend(inputs)
        for i, name in enumerate(node.output):
            copied.output[i] = self._result(name, form) if name else name
        self._build.add(copied)

    def _write_mark(self, node: Any) -> None:
        source, result = node.input[0], node.output[0]
        own = self._own(node)
        if own is None:
            for form in self._wanted_of(result):
                self._names[result, form] = self._names[source, form]
                if form is None and result in self._outputs:
                    self._build.node("Identity", [self._names[source, None]], self._result(result))
            return
        levels = self._names[source, own]
        if node.op_type == INPUT:
            plan = self._plans[_index(node)]
            self._build.layer = plan.p.name
            scale, zero = self._scale(f"{plan.p.name}.input", own)
            plan.input_scale = scale
            name = self._build.call(f"{plan.p.name}.input")
            self._names[result, None] = self._build.node("DequantizeLinear", [levels, scale, zero], name)
            return
        forms = self._wanted_of(result)
        others = [form for form in forms if form is None or form.grid != own.grid]
        if others:
            self._build.node("DequantizeLinear", [levels, *self._scale_of(own)], self._result(result))
        for form in forms:
            if form is not None and form.grid == own.grid:
                self._names[result, form] = self._bounded(levels, form)
        self._quantize(result, but=own)

    def _write_move(self, node: Any) -> None:
        data, rest = self._data(node)
        clip = self._clip(node)
        for form in self._forms(node):
            if clip is not None and form is not None:
                self._names[node.output[0], form] = self._names[node.input[0], form.within(*clip)]
                continue
            inputs = [self._names[name, form] for name in data]
            inputs += [self._names.get((name, None), name) for name in rest]
            if node.op_type == "Pad":
                inputs += list(node.input[2:]) if form is None else [self._scale_of(form)[1], *node.input[3:]]
            self._copy(node, inputs, form)

    def _quantize(self, name: str, but: Form = None) -> None:
        """Add the quantizations that are wanted of a value in float, but of one grid."""
        for form in self._wanted_of(name):
            if form is None or (but is not None and form.grid == but.grid):
                continue
            key = (name, *form.grid)
            if key not in self._raw:
                source = self._names[name, None]
                self._raw[key] = self._build.node("QuantizeLinear", [source, *self._scale_of(form)])
            self._names[name, form] = self._bounded(self._raw[key], form)

    def _bounded(self, levels: str, form: Levels) -> str:
        """Return uint8 levels within the bounds of a form."""
        if (form.lowest, form.highest) == (0, _TOP):
            return levels
        # Bounds belong to the layer whose input they are of.
        owner, _, kind = self._grids[form.grid].rpartition(".")
        self._build.layer = owner if kind == "input" else self._build.layer
        bounds = [
            self._build.value(f"evoq.level{level}", np.array(level, dtype=np.uint8))
            for level in (form.lowest, form.highest)
        ]
        return self._build.once("Clip", [levels, *bounds])

    def _scale_of(self, form: Levels) -> list[str]:
        """Keep the scale and the zero point of levels, under the name of the first that has them."""
        return self._scale(self._grids[form.grid], form)

    def _scale(self, name: str, form: Levels) -> list[str]:
        return [
            self._build.value(f"{name}_scale", np.array(form.scale, dtype=np.float32)),
            self._build.value(f"{name}_zero_point", np.array(form.zero_point, dtype=np.uint8)),
        ]

    def _write_product(self, node: Any, plan: LayerPlan, index: int) -> None:
        build, p = self._build, plan.p
        build.layer = p.name
        integer = self._is_integer(node, plan)
        weight = self._weight(*self._weights[node.input[1]], integer=integer)
        inputs = [self._float(node.input[0]), weight]
        for name in node.input[2:]:
            own = name in self._biases
            inputs.append(self._bias_levels(plan) if own and integer else self._float(name))
        if integer or not p.quantized_activation or node.op_type == "MatMul":
            self._copy(node, inputs, None)
            return
        # onnxruntime would round the weights and the bias of a float product between dequantization and quantization.
        # The larger of the product and the lowest float32 keeps it from that.
        from onnx import NodeProto

        guarded = NodeProto()
        guarded.CopyFrom(node)
        del guarded.input[:]
        guarded.input.extend(inputs)
        guarded.output[0] = build.result()
        build.add(guarded)
        lowest = build.value("evoq.lowest", np.array(np.finfo(np.float32).min))
        build.node("Max", [guarded.output[0], lowest], self._result(node.output[0]))

    def _weight(self, index: int, permutation: tuple[int, ...] | None, *, integer: bool) -> str:
        """Add a layer's weights, dequantized, and return their name."""
        key = (index, integer, permutation)
        if key in self._parts:
            return self._parts[key]
        build, plan = self._build, self._plans[index]
        p = plan.p
        build.layer = p.name
        if not integer:
            found = float_weight(build, plan)
            self._parts[key] = found if permutation is None else build.node("Transpose", [found], perm=permutation)
            return self._parts[key]
        levels = stored_levels(build, plan)
        axis = 0
        if permutation is not None:
            levels = build.node("Transpose", [levels], perm=permutation)
            axis = permutation.index(0)
        inputs = [levels, build.value(f"{p.name}.weight_scales", plan.stored_scales())]
        if plan.container == "uint8" or not plan.layer.geometry.dims:
            zero = 128 if plan.container == "uint8" else 0
            dtype = np.uint8 if plan.container == "uint8" else np.int8
            inputs.append(build.value(f"{p.name}.weight_zero_points", np.full(plan.channels, zero, dtype=dtype)))
        self._parts[key] = build.node("DequantizeLinear", inputs, axis=axis)
        return self._parts[key]

    def _bias_levels(self, plan: LayerPlan) -> str:
        """Add a layer's bias of int32 levels, dequantized, and return its name."""
        p = plan.p
        levels = self._build.value(f"{p.name}.bias_levels", array_of(p.bias_levels))
        if self._folded:
            scales = [self._build.value(f"{p.name}.weight_scales", plan.stored_scales()), plan.input_scale]
            steps = self._build.once("Mul", scales)
        else:
            steps = self._build.value(f"{p.name}.bias_scales", array_of(p.bias_scales))
        return self._build.once("DequantizeLinear", [levels, steps], axis=0)

    def _bias(self, plan: LayerPlan) -> str:
        """Keep a layer's bias in float, and return its name."""
        return self._build.value(f"{plan.p.name}.bias", array_of(plan.p.bias))


def _index(mark: Any) -> int:
    return int(mark.attribute[0].i)
