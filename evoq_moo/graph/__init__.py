"""The given network, captured once: the representation that everything else is a pass over."""

from evoq_moo.graph.copying import own_copy, untouched
from evoq_moo.graph.fingerprints import digest, network_fingerprint, tensor_bytes
from evoq_moo.graph.inputs import (
    Samples,
    are_images,
    arguments,
    check_samples,
    count,
    device_of,
    filled,
    join,
    leaves,
    map_samples,
    rows,
    run,
    split,
)
from evoq_moo.graph.modules import bias_of, kind_of, set_weight, weight_bytes, weight_of
from evoq_moo.graph.network import GraphNetwork, LayerCall, NetworkGraph, SizedGraph, Values, dead_after, output_leaves
from evoq_moo.graph.observing import observed
from evoq_moo.graph.ops import NO_CLIP, RELU, Clip, Const, Geometry, Op, Ref, aten, clip_of, replace_op
from evoq_moo.graph.preparation import capture_network, prepare
from evoq_moo.graph.prepared import Prepared
from evoq_moo.graph.products import Product, per_channel, product, torch_layout, torch_product
from evoq_moo.graph.silence import quiet
from evoq_moo.graph.stages import LayerWeights, Stage, StagedNetwork
from evoq_moo.graph.truths import (
    LARGEST_ERROR,
    check_micro_batches,
    check_rows,
    first_apart,
    first_nonfinite,
    float_outputs,
    lone_outputs,
    module_outputs,
    relative_error,
)

__all__ = [
    "LARGEST_ERROR",
    "NO_CLIP",
    "RELU",
    "Clip",
    "Const",
    "Geometry",
    "GraphNetwork",
    "LayerCall",
    "LayerWeights",
    "NetworkGraph",
    "Op",
    "Prepared",
    "Product",
    "Ref",
    "Samples",
    "SizedGraph",
    "Stage",
    "StagedNetwork",
    "Values",
    "are_images",
    "arguments",
    "aten",
    "bias_of",
    "capture_network",
    "check_micro_batches",
    "check_rows",
    "check_samples",
    "clip_of",
    "count",
    "dead_after",
    "device_of",
    "digest",
    "filled",
    "first_apart",
    "first_nonfinite",
    "float_outputs",
    "join",
    "kind_of",
    "leaves",
    "lone_outputs",
    "map_samples",
    "module_outputs",
    "network_fingerprint",
    "observed",
    "output_leaves",
    "own_copy",
    "per_channel",
    "prepare",
    "product",
    "quiet",
    "relative_error",
    "replace_op",
    "rows",
    "run",
    "set_weight",
    "split",
    "tensor_bytes",
    "torch_layout",
    "torch_product",
    "untouched",
    "weight_bytes",
    "weight_of",
]
