"""What an int8 file is for: which containers its weights take, and what guards its products."""

from dataclasses import dataclass

from evoq_moo.errors import check_name


@dataclass(frozen=True, kw_only=True)
class Target:
    """A kind of runtime.

    Attributes:
        name: What users call it.
        packed: Pack weights below 8 bits at their own bits. They are put together when the file is loaded, by a runtime
            that folds constants.
        guarded: Write weights of 8 bits unsigned where inputs have 8 bits too, in all products but depthwise ones. On
            processors without int8 dot products, kernels of unsigned inputs and signed weights add pairs of products
            in 16 bits, which saturate; those of two unsigned sides do not, and are slower. Fewer bits never saturate.
        folded: Compute the steps of biases from those of inputs and weights when the file is loaded.
        why: What it is for, in words.
    """

    name: str
    packed: bool
    guarded: bool
    folded: bool
    why: str


TARGETS = {
    target.name: target
    for target in (
        Target(
            name="onnxruntime",
            packed=True,
            guarded=False,
            folded=True,
            why="onnxruntime on processors with int8 dot products (VNNI, AMX, Arm); weights packed at their own bits",
        ),
        Target(
            name="avx2",
            packed=True,
            guarded=True,
            folded=True,
            why="onnxruntime on x86 processors without VNNI: 8-bit weights unsigned where products would saturate",
        ),
        Target(
            name="openvino",
            packed=False,
            guarded=False,
            folded=False,
            why="OpenVINO, which computes other weights from bit planes: all weights in int8 containers",
        ),
        Target(
            name="portable",
            packed=False,
            guarded=True,
            folded=False,
            why="any reader of QuantizeLinear and DequantizeLinear: no packed weights, no product that may saturate",
        ),
    )
}
"""By name."""
DEFAULT_TARGET = "onnxruntime"


def target_of(name: str) -> Target:
    """Return a target.

    Raises:
        ArgumentError: There is none of that name.
    """
    check_name("target", name, tuple(TARGETS))
    return TARGETS[name]
