"""Policies (bit-widths of every layer) and the search space of integer vectors they are decoded from.

Pure numpy: nothing here knows networks, torch or pymoo, so that operators and surrogate problems can use it alone.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from msgspec import Struct
from rich.table import Table

from evoq_moo._text import html_table
from evoq_moo.errors import ArgumentError, BitWidthError, check_name, check_text, quoted
from evoq_moo.files import BitWidth, Extent, Text, convert, reading

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

QUANTIZED_BITS = tuple(range(2, 9))
"""Bit-widths that are quantized."""
FLOAT_BITS = (16, 32)
"""Bit-widths that mean "not quantized"; they only count in the costs."""
ALLOWED_BITS = QUANTIZED_BITS + FLOAT_BITS

WEIGHT = 0
"""Column of weights in every `(..., layers, 2)` bit-width array."""
ACTIVATION = 1
"""Column of activations."""

GeneKind = Literal["weight", "activation", "both"]


@dataclass(frozen=True, kw_only=True)
class LayerInfo:
    """What the costs and operators know of one quantizable layer.

    Attributes:
        name: Dotted module name in the network.
        kind: Class name of the layer, e.g. ``"Conv2d"``.
        params: Number of weights (biases not counted).
        macs: Multiply-accumulate operations of one forward pass on one sample, all calls of the layer together.
        bias_params: Number of biases.
        output_channels: Number of weight scales.
    """

    name: str
    kind: str
    params: Extent
    macs: Extent
    bias_params: Extent = 0
    output_channels: Extent = 0


@dataclass(frozen=True, kw_only=True)
class Gene:
    """One variable of the search.

    Attributes:
        layer: Index of the layer in the space.
        kind: ``"weight"``, ``"activation"``, or ``"both"`` where the two are tied.
        choices: Allowed bit-widths, ascending.
    """

    layer: Extent
    kind: GeneKind
    choices: tuple[BitWidth, ...]

    @property
    def columns(self) -> tuple[int, ...]:
        """Columns of the bit-width array this gene sets."""
        return {"weight": (WEIGHT,), "activation": (ACTIVATION,), "both": (WEIGHT, ACTIVATION)}[self.kind]


@dataclass(frozen=True)
class Policy:
    """Bit-widths of every quantizable layer of one network.

    Attributes:
        layers: Names of the layers, in the network's order.
        weight_bits: Weight bit-width of each layer (bits); 16 and 32 mean "not quantized".
        activation_bits: Bit-width of each layer's input activation (bits).
    """

    layers: tuple[Text, ...]
    weight_bits: tuple[BitWidth, ...]
    activation_bits: tuple[BitWidth, ...]

    def __post_init__(self) -> None:
        if not len(self.layers) == len(self.weight_bits) == len(self.activation_bits):
            raise ArgumentError(
                f"policy: {len(self.layers)} layers need as many weight and activation bit-widths, given "
                f"{len(self.weight_bits)} and {len(self.activation_bits)}"
            )
        for name, bits in (("weight_bits", self.weight_bits), ("activation_bits", self.activation_bits)):
            wrong = sorted({b for b in bits if b not in ALLOWED_BITS})
            if wrong:
                raise BitWidthError(f"policy: {name} holds {quoted(wrong)}; allowed: {list(ALLOWED_BITS)}")
            object.__setattr__(self, name, tuple(int(b) for b in bits))

    @classmethod
    def from_array(cls, layers: Sequence[str], bits: npt.ArrayLike) -> "Policy":
        """Build a policy from whole numbers of shape `(layers, 2)`: weight bits, activation bits.

        Raises:
            ArgumentError: Another shape.
            BitWidthError: A value is not a whole number, or no allowed bit-width.
        """
        array = whole_bits("bits", bits)
        if array.shape != (len(layers), 2):
            raise ArgumentError(f"bits: given shape {array.shape}; allowed: (layers, 2) = ({len(layers)}, 2)")
        return cls(tuple(layers), tuple(array[:, WEIGHT].tolist()), tuple(array[:, ACTIVATION].tolist()))

    def to_array(self) -> IntArray:
        """Return the bit-widths as an int64 array of shape `(layers, 2)`: weight bits, activation bits."""
        return np.stack([self.weight_bits, self.activation_bits], axis=1).astype(np.int64)

    def __repr__(self) -> str:
        means = (sum(bits) / len(bits) if bits else 0.0 for bits in (self.weight_bits, self.activation_bits))
        weight, activation = (f"{mean:.2f}" for mean in means)
        return f"Policy({len(self.layers)} layers, mean weight bits {weight}, mean activation bits {activation})"

    def _repr_html_(self) -> str:
        return html_table(self.table(title=repr(self)))

    def table(self, *, title: str | None = None) -> Table:
        """Return the bit-widths of each layer as a rich table."""
        table = Table("layer", "weight bits", "activation bits", title=title)
        for name, weight, activation in zip(self.layers, self.weight_bits, self.activation_bits, strict=True):
            table.add_row(name, str(weight), str(activation))
        return table

    def __str__(self) -> str:
        width = max((len(name) for name in self.layers), default=0)
        rows = zip(self.layers, self.weight_bits, self.activation_bits, strict=True)
        return "\n".join(f"{name:<{width}}  W{w} A{a}" for name, w, a in rows)


def whole_bits(argument: str, bits: npt.ArrayLike) -> IntArray:
    """Return bit-widths as int64; numbers are never truncated.

    Args:
        argument: The argument's name, for messages.
        bits: Whole numbers of any shape; 4.0 is one.

    Raises:
        BitWidthError: A value is not a whole number.
    """
    given = _numbers(argument, bits, "whole numbers")
    whole = (np.abs(given) <= max(ALLOWED_BITS)) & (given == np.round(given))
    if not whole.all():
        raise BitWidthError(f"{argument}: given {given[~whole][0]}; allowed: whole numbers up to {max(ALLOWED_BITS)}")
    return given.astype(np.int64)


def _numbers(argument: str, given: npt.ArrayLike, allowed: str) -> npt.NDArray[Any]:
    """Return what was given as an array of integers or floating-point numbers.

    Raises:
        BitWidthError: It holds something else, or rows of different lengths.
    """
    try:
        array = np.asarray(given)
    except ValueError:  # rows of different lengths
        raise BitWidthError(f"{argument}: given rows of different lengths; allowed: an array of {allowed}") from None
    if array.dtype.kind not in "iuf" and array.size:
        raise BitWidthError(f"{argument}: given values of {array.dtype}; allowed: {allowed}")
    return array


def check_bits(argument: str, bits: Iterable[int]) -> tuple[int, ...]:
    """Return a set of bit-widths sorted ascending without duplicates.

    Args:
        argument: The argument's name, for messages.
        bits: Bit-widths among 2..8, 16 and 32.

    Raises:
        ArgumentError: The set is empty or holds anything but allowed integers.
    """
    try:
        given = list(bits)
    except TypeError:
        raise ArgumentError(f"{argument}: given {bits!r}; allowed: a collection of {list(ALLOWED_BITS)}") from None
    if not given:
        raise ArgumentError(
            f"{argument}: given an empty set of bit-widths; allowed: one or more of {list(ALLOWED_BITS)}"
        )
    wrong = [b for b in given if isinstance(b, bool) or not isinstance(b, int | np.integer) or b not in ALLOWED_BITS]
    if wrong:
        raise ArgumentError(
            f"{argument}: given {quoted(wrong)}; allowed: {list(ALLOWED_BITS)} (16 and 32 mean not quantized)"
        )
    return tuple(sorted({int(b) for b in given}))


@dataclass(frozen=True, kw_only=True, eq=False)
class SearchSpace:
    """Integer vectors of bit-widths and the policies they stand for.

    A vector holds one int64 bit-width for each gene: the weight genes in layer order, then the activation genes.
    Layers with one allowed bit-width have no gene; `base` holds their bit-widths.

    Attributes:
        layers: The quantizable layers in execution order.
        genes: The variables, in vector order.
        base: Int64 array `(layers, 2)` of bit-widths for what no gene sets.
    """

    layers: tuple[LayerInfo, ...]
    genes: tuple[Gene, ...]
    base: IntArray = field(repr=False)

    @classmethod
    def build(
        cls,
        layers: Sequence[LayerInfo],
        *,
        weight_bits: Iterable[int],
        activation_bits: Iterable[int],
        pinned: Mapping[str, int] | None = None,
        tied: bool = False,
        overrides: Mapping[str, Mapping[str, Iterable[int]]] | None = None,
    ) -> "SearchSpace":
        """Build a space over the given layers.

        Args:
            layers: The quantizable layers.
            weight_bits: Allowed weight bit-widths; need not be contiguous.
            activation_bits: Allowed activation bit-widths. One value (e.g. ``[8]`` or ``[32]``) searches weights only.
            pinned: Layers held at one bit-width, weights and activations alike.
            tied: One gene sets both bit-widths of a layer; both sets must then be equal.
            overrides: For a layer's name, ``{"weight_bits": ..., "activation_bits": ...}`` instead of the defaults.
                Overrides win over `pinned`.

        Raises:
            ArgumentError: A bit set is empty or not allowed, or `tied` has unequal sets.
            UnknownNameError: `pinned` or `overrides` name an unknown layer or key.
        """
        names = [layer.name for layer in layers]
        for name in names:
            check_text("layers", name)
        pinned = dict(pinned or {})
        overrides = dict(overrides or {})
        for name in pinned:
            check_name("pinned", name, names)
        for name, override in overrides.items():
            check_name("overrides", name, names)
            for key in override:
                check_name(f"overrides[{name!r}]", key, ("weight_bits", "activation_bits"))
        default = (check_bits("weight_bits", weight_bits), check_bits("activation_bits", activation_bits))

        choices: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
        for name in names:
            pair = list(default)
            if name in pinned:
                pair = [check_bits(f"pinned[{name!r}]", [pinned[name]])] * 2
            for column, key in enumerate(("weight_bits", "activation_bits")):
                if key in overrides.get(name, {}):
                    pair[column] = check_bits(f"overrides[{name!r}][{key!r}]", overrides[name][key])
            if tied and pair[WEIGHT] != pair[ACTIVATION]:
                raise ArgumentError(
                    f"tied: weights and activations of layer {name!r} need the same bit-widths, given "
                    f"{list(pair[WEIGHT])} and {list(pair[ACTIVATION])}"
                )
            choices.append((pair[WEIGHT], pair[ACTIVATION]))

        genes: list[Gene] = []
        kinds: tuple[tuple[GeneKind, int], ...] = (
            (("both", WEIGHT),) if tied else (("weight", WEIGHT), ("activation", ACTIVATION))
        )
        for kind, column in kinds:
            genes += [
                Gene(layer=i, kind=kind, choices=pair[column])
                for i, pair in enumerate(choices)
                if len(pair[column]) > 1
            ]
        base = np.array([[w[-1], a[-1]] for w, a in choices], dtype=np.int64).reshape(-1, 2)
        return cls(layers=tuple(layers), genes=tuple(genes), base=base)

    @property
    def n_var(self) -> int:
        """Number of genes."""
        return len(self.genes)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """Names of the quantizable layers."""
        return tuple(layer.name for layer in self.layers)

    @property
    def gene_names(self) -> tuple[str, ...]:
        """Name of each gene: layer, a dot, and what it sets."""
        return tuple(f"{self.layers[g.layer].name}.{g.kind}" for g in self.genes)

    @property
    def lower(self) -> IntArray:
        """Smallest bit-width of each gene, int64 `(n_var,)`."""
        return np.array([g.choices[0] for g in self.genes], dtype=np.int64)

    @property
    def upper(self) -> IntArray:
        """Largest bit-width of each gene, int64 `(n_var,)`."""
        return np.array([g.choices[-1] for g in self.genes], dtype=np.int64)

    @property
    def cardinality(self) -> int:
        """Number of different policies (a Python int of any size)."""
        count = 1
        for gene in self.genes:
            count *= len(gene.choices)
        return count

    def check(self, X: npt.ArrayLike) -> IntArray:
        """Return vectors as int64 `(n, n_var)`.

        Args:
            X: Vectors of allowed bit-widths, any numeric dtype, `(n, n_var)` or `(n_var,)`.

        Raises:
            BitWidthError: A value is not among its gene's choices.
        """
        given = np.atleast_2d(_numbers("X", X, "numbers"))
        if given.ndim != 2 or given.shape[1] != self.n_var:
            raise BitWidthError(
                f"X: given shape {np.shape(X)}; allowed: (n, {self.n_var}), one bit-width for each gene"
            )
        in_range = (given >= 0) & (given <= max(ALLOWED_BITS))
        vectors = np.where(in_range, given, 0).astype(np.int64)
        fine = in_range & (vectors == given) & self._allows[np.arange(self.n_var), vectors]
        if not fine.all():
            i, j = (int(index) for index in np.argwhere(~fine)[0])
            raise BitWidthError(
                f"X[{i}, {j}] ({self.gene_names[j]}): given {given[i, j]}; allowed: {list(self.genes[j].choices)}. "
                "An operator that yields other values needs repair=BitWidthRepair()"
            )
        return vectors

    @cached_property
    def _allows(self) -> npt.NDArray[np.bool_]:
        """Bool `(n_var, 33)`: whether a gene allows a bit-width."""
        allows = np.zeros((self.n_var, max(ALLOWED_BITS) + 1), dtype=bool)
        for j, gene in enumerate(self.genes):
            allows[j, list(gene.choices)] = True
        return allows

    def decode(self, X: npt.ArrayLike) -> IntArray:
        """Return the bit-widths of vectors: int64 `(n, layers, 2)`.

        Args:
            X: Vectors `(n, n_var)` or `(n_var,)`.

        Raises:
            BitWidthError: A value is not among its gene's choices.
        """
        vectors = self.check(X)
        bits = np.repeat(self.base[None], len(vectors), axis=0)
        for column in (WEIGHT, ACTIVATION):
            genes = [j for j, gene in enumerate(self.genes) if column in gene.columns]
            bits[:, [self.genes[j].layer for j in genes], column] = vectors[:, genes]
        return bits

    def policy(self, x: npt.ArrayLike) -> Policy:
        """Return the policy of one vector `(n_var,)`."""
        return Policy.from_array(self.layer_names, self.decode(x)[0])

    def encode(self, policy: Policy) -> IntArray:
        """Return the vector of a policy, int64 `(n_var,)`.

        Raises:
            BitWidthError: The policy is not in this space.
            ArgumentError: The policy is of other layers.
        """
        if policy.layers != self.layer_names:
            raise ArgumentError(
                f"policy: is of layers {policy.layers}; allowed: those of the space, {self.layer_names}"
            )
        bits = policy.to_array()
        x = np.array([bits[g.layer, g.columns[0]] for g in self.genes], dtype=np.int64)
        nearest = self.snap(x[None])[0]
        decoded = self.decode(nearest)[0]
        if not np.array_equal(decoded, bits):
            i = int(np.flatnonzero((decoded != bits).any(axis=1))[0])
            raise BitWidthError(
                f"policy: layer {self.layer_names[i]!r} has W{bits[i, 0]} A{bits[i, 1]}; "
                f"the nearest this space holds is W{decoded[i, 0]} A{decoded[i, 1]}"
            )
        return x

    def snap(self, X: npt.ArrayLike) -> IntArray:
        """Return vectors with every value moved to the nearest allowed bit-width (the lower of two as near).

        Args:
            X: Real vectors `(n, n_var)`.

        Raises:
            BitWidthError: A value is NaN, or no number.
        """
        given = np.clip(_numbers("X", X, "numbers").astype(np.float64), 0, max(ALLOWED_BITS))
        if np.isnan(given).any():
            raise BitWidthError("X: holds NaN; allowed: numbers")
        snapped = np.empty(given.shape, dtype=np.int64)
        for j, gene in enumerate(self.genes):
            choices = np.array(gene.choices)
            snapped[..., j] = choices[np.abs(given[..., j, None] - choices).argmin(axis=-1)]
        return snapped

    def sample(self, n: int, random_state: np.random.Generator) -> IntArray:
        """Return `n` vectors with every gene drawn uniformly from its choices, int64 `(n, n_var)`."""
        X = np.empty((n, self.n_var), dtype=np.int64)
        for j, gene in enumerate(self.genes):
            X[:, j] = random_state.choice(gene.choices, size=n)
        return X

    def uniform(self, bits: int) -> IntArray:
        """Return the vector with every gene at the allowed bit-width nearest to `bits`, int64 `(n_var,)`."""
        return np.asarray(self.snap(np.full((1, self.n_var), bits))[0])

    def enumerate(self) -> Iterator[IntArray]:
        """Yield every vector of the space, int64 `(n_var,)`, for exhaustive search on tiny spaces."""
        counts = tuple(len(g.choices) for g in self.genes)
        for index in np.ndindex(*counts):
            yield np.array([g.choices[i] for g, i in zip(self.genes, index, strict=True)], dtype=np.int64)

    def to_json(self) -> dict[str, Any]:
        """Return the space as JSON-ready plain data."""
        return {
            "layers": [asdict(layer) for layer in self.layers],
            "genes": [asdict(gene) for gene in self.genes],
            "base": self.base.tolist(),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> "SearchSpace":
        """Rebuild a space from what :meth:`to_json` gave.

        Raises:
            FormatError: The data is damaged.
        """
        with reading("space"):
            return convert(data, SpaceData).space()


class SpaceData(Struct):
    """A search space in a file."""

    layers: tuple[LayerInfo, ...]
    genes: tuple[Gene, ...]
    base: tuple[tuple[BitWidth, BitWidth], ...]

    def space(self) -> SearchSpace:
        """Return the space.

        Raises:
            ArgumentError: Its parts don't fit each other.
        """
        layers, genes = self.layers, self.genes
        if len(self.base) != len(layers):
            raise ArgumentError(f"base: given {len(self.base)} rows; allowed: one for each of {len(layers)} layers")
        if len({layer.name for layer in layers}) != len(layers):
            raise ArgumentError("layers: names a layer twice")
        for row in self.base:
            check_bits("base", row)
        sides = [(gene.layer, column) for gene in genes for column in gene.columns]
        if len(set(sides)) != len(sides) or any(layer >= len(layers) for layer, _ in sides):
            raise ArgumentError("genes: one is of an unknown layer, or two set the same bit-width")
        for gene in genes:
            if check_bits("choices", gene.choices) != gene.choices:
                raise ArgumentError(f"choices: given {gene.choices}; allowed: ascending bit-widths, each once")
        base = np.array(self.base, dtype=np.int64).reshape(len(layers), 2)
        return SearchSpace(layers=layers, genes=genes, base=base)
