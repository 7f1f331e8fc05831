"""`verify_onnx`: what an ONNX file computes against the network it was made from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from rich.table import Table
from torch import Tensor, nn

from evoq_moo._compute import MICRO_BATCH
from evoq_moo.difference import heads_of
from evoq_moo.errors import ArgumentError, check_count
from evoq_moo.export._floating import float_model
from evoq_moo.export._forms import Form
from evoq_moo.export._integer import in_integers, kernels_of, saturates
from evoq_moo.export._levels import Disagreement, LevelReport, Parted, compare_levels, explain
from evoq_moo.export._read import OnnxFile, OnnxLayer, read_onnx
from evoq_moo.export._session import open_session, run_session
from evoq_moo.export._shipment import Shipment, shipment_of
from evoq_moo.export._template import require_onnx
from evoq_moo.export._timing import in_turns
from evoq_moo.graph import Geometry, Samples, join, rows, run, split, torch_layout
from evoq_moo.graph import count as number_of
from evoq_moo.progress import track
from evoq_moo.quantizer import LayerParameters


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """What is allowed between a file and the network in torch.

    Attributes:
        largest: Distance of any logit (output levels).
        root: Root of the mean squared distance of logits (output levels).
        disagreement: Share of other top-1 classes.
        drift: The same as a share of those that quantization itself changes; the larger of the two is allowed.
        equal: Least share of input levels that are equal.
    """

    largest: float
    root: float
    disagreement: float
    drift: float
    equal: float

    def least_agreement(self, changed: float) -> float:
        """Return the least share of equal top-1 classes, where quantization changes a share of the float network's."""
        return 1 - max(self.disagreement, self.drift * changed)


REFERENCE = Bounds(largest=2.0, root=np.inf, disagreement=0.005, drift=0.0, equal=0.99)
"""Of the reference forms: one arithmetic, so that hardly anything may differ."""
INTEGER = Bounds(largest=np.inf, root=1.0, disagreement=0.03, drift=0.25, equal=0.9)
"""Of the int8 form, and of integer kernels against the file: float32 roundings in another order, which move a value
across the border between two levels now and then, and that grows on the way to the outputs."""
SIZE_SHARE, SIZE_BYTES = 0.03, 4096
"""Allowed size beyond what the file's containers and its graph take: this share and so many bytes."""
_EXPLAINED = 20


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one forward pass, one sample, one thread: medians (ms), taken in turns.

    Attributes:
        onnx: The file, onnxruntime with its default options.
        float_onnx: The float network as ONNX, likewise.
        quantized: The quantized network in torch.
        floating: The float network in torch.
    """

    onnx: float
    float_onnx: float
    quantized: float
    floating: float


@dataclass(frozen=True, kw_only=True)
class Fused:
    """What onnxruntime computes with its default options: in integer kernels.

    Attributes:
        distance: For each head, the root of its mean squared distance to what the file says, in output levels.
        top1_agreement: How often the largest logit is torch's, 0..1; None where the network is no classifier.
        kernels: For each layer, the operators that onnxruntime runs it in.
    """

    distance: tuple[float, ...]
    top1_agreement: float | None
    kernels: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        problems: Why the file is not what it should be, one sentence each; empty if it is.
        slow: Those of the problems that are about time alone.
        images: How many images were compared.
        logit_levels: For each head, the largest distance between the two, in output levels: 1/255 of the head's range
            over the images, the step an 8-bit quantizer of it would have (our unit: outputs are float32).
        logit_distance: The same, in the head's own unit.
        logit_roots: For each head, the root of the mean squared distance, in output levels.
        top1_agreement: How often the largest logit is the same, 0..1; None where the network is no classifier.
        least_agreement: How often it has to be, 0..1.
        bounds: What is allowed.
        disagreements: The images where it is not, and where the two part.
        levels: Input levels of every layer on the first images.
        fused: What integer kernels make of the file.
        notes: What a user should know, one sentence each: layers that stay float, and why.
        size: Of the file (bytes).
        predicted: The size objective and its overhead, and what is float beside (bytes).
        stored: The same with weights in their containers (bytes).
        graph: What nodes, names and notes take (bytes).
        latency: Times; None if not asked for.
    """

    problems: tuple[str, ...]
    slow: tuple[str, ...]
    images: int
    logit_levels: tuple[float, ...]
    logit_distance: tuple[float, ...]
    logit_roots: tuple[float, ...]
    top1_agreement: float | None
    least_agreement: float
    bounds: Bounds
    disagreements: tuple[Disagreement, ...]
    levels: LevelReport
    fused: Fused
    notes: tuple[str, ...]
    size: int
    predicted: int
    stored: int
    graph: int
    latency: Latency | None

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems

    def table(self) -> Table:
        """Return the findings as a rich table."""
        table = Table("what", "found", "allowed")
        shown = "different" if any("parameter" in p for p in self.problems) else "equal"
        table.add_row("weight levels, scales, biases", shown, "equal")
        table.add_row(
            f"input levels ({self.levels.values} values)",
            f"{100 * self.levels.equal:.4f} % equal, largest distance {self.levels.largest}",
            f">= {100 * self.bounds.equal:g} % equal",
        )
        allowed = f"<= {self.bounds.largest:g}, rms <= {self.bounds.root:g}"
        found = zip(self.logit_levels, self.logit_distance, self.logit_roots, strict=True)
        for i, (levels, distance, root) in enumerate(found):
            name = "logits" if len(self.logit_levels) == 1 else f"head {i}"
            table.add_row(name, f"within {levels:.3g} output levels ({distance:.3g}), rms {root:.3g}", allowed)
        if self.top1_agreement is not None:
            table.add_row(
                f"top-1 agreement ({self.images} images)",
                f"{100 * self.top1_agreement:.2f} %",
                f">= {100 * self.least_agreement:.4g} %",
            )
        integer = sum(in_integers(self.fused.kernels, name) for name in self.fused.kernels)
        table.add_row("layers in integer kernels", f"{integer} of {len(self.fused.kernels)}", "all that can be")
        table.add_row(
            "integer kernels, from the file as written",
            "rms " + ", ".join(f"{found:.3g}" for found in self.fused.distance) + " output levels",
            f"<= {INTEGER.root:g}",
        )
        if self.fused.top1_agreement is not None:
            table.add_row(
                "integer kernels, top-1 agreement with torch",
                f"{100 * self.fused.top1_agreement:.2f} %",
                f">= {100 * self.least_agreement:.4g} %",
            )
        table.add_row(
            "file (KiB)",
            f"{self.size / 1024:.1f}; predicted {self.predicted / 1024:.1f}, "
            f"in its containers {self.stored / 1024:.1f}",
            f"<= containers + {100 * SIZE_SHARE:g} % + {self.graph / 1024:.1f} of graph",
        )
        if self.latency is not None:
            table.add_row(
                "one image, one thread (ms)",
                f"{self.latency.onnx:.2f}; float ONNX {self.latency.float_onnx:.2f}, torch quantized "
                f"{self.latency.quantized:.2f}, torch float {self.latency.floating:.2f}",
                "<= float ONNX",
            )
        return table


def verify_onnx(
    path: str | Path,
    against: nn.Module,
    images: Samples | Iterable[Samples],
    *,
    level_images: int = 10,
    repeats: int = 20,
    count: int | None = None,
    progress: bool = True,
) -> Verification:
    """Compare an ONNX file with the network it was made from, as written and as onnxruntime runs it.

    As written, without fusion into integer kernels, its outputs and the levels of every layer's input are compared with
    what torch computes in the file's own form (that of the exact one: :func:`exact_network`). With onnxruntime's
    default options, as users run it, every layer of an int8 file that has an integer kernel must run in it, the outputs
    must stay near those as written, and the file must not be slower than the float network as ONNX.

    Args:
        path: The file.
        against: The network: a `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        images: Preprocessed float32 images `(n, ...)`, or samples in any form that the network takes; or an iterator
            of batches of them.
        level_images: How many of them to compare the levels of every layer's input on.
        repeats: Passes for the latency; 0 for none, which leaves it out of what is checked.
        count: How many images there are, for the progress bar; None if not known.
        progress: Show progress on a terminal.

    Returns:
        What was found; `passed` says whether all is well.

    Raises:
        ArgumentError: An argument is not allowed, or there are no images.
        MissingFileError: No such file.
        FormatError: The file is damaged or not of ours.
        MissingPackageError: onnx or onnxruntime is missing.
    """
    check_count("level_images", level_images)
    check_count("repeats", repeats, lowest=0)
    shipment = shipment_of(against)
    found = read_onnx(path)
    problems = _parameter_problems(found, shipment)
    computed: Any = found.form.network(against)
    whole = isinstance(images, Tensor | tuple | Mapping)
    batches: Iterable[Samples] = split(images, MICRO_BATCH) if whole else images  # type: ignore[arg-type, assignment]
    session, running = open_session(found.content), open_session(found.content, integer=True)
    heads, fused, run_heads, drift = _Heads(), _Heads(), _Heads(), _Heads()
    kept: list[Samples] = []
    with track(
        number_of(images) if whole else count,  # type: ignore[arg-type]
        "verifying",
        enabled=progress,
    ) as bar:
        for batch in batches:
            with torch.no_grad():
                expected = [head.numpy() for head in heads_of(run(computed, batch))]
            written, as_run = _run(session, batch), _run(running, batch)
            heads.add(expected, written, batch)
            fused.add(written, as_run, batch)
            run_heads.add(expected, as_run, batch)
            if found.form.integer:
                with torch.no_grad():
                    floating = [head.numpy() for head in heads_of(run(shipment.network, batch))]
                drift.add(expected, floating, batch)
            missing = level_images - sum(map(number_of, kept))
            if missing > 0:
                kept.append(rows(batch, slice(0, missing)))
            bar.advance(number_of(batch))
    if not kept:
        raise ArgumentError("images: given none; allowed: at least one")
    levels = compare_levels(found, computed, shipment.layers, join(kept))
    disagreements = explain(found, computed, shipment.layers, heads.parted[:_EXPLAINED])
    distance, in_levels = heads.distances()
    bounds = INTEGER if found.form.integer else REFERENCE
    least = bounds.least_agreement(drift.disagreement())
    size, stored, graph = len(found.content), _stored(found), graph_bytes(found.model)
    as_fused = Fused(
        distance=fused.roots(),
        top1_agreement=run_heads.agreement(),
        kernels=kernels_of(found.content, found.policy.layers),
    )
    latency = _latency(found, against, shipment, rows(kept[0], slice(0, 1)), repeats) if repeats else None
    problems += _output_problems(bounds, in_levels, heads.roots(), heads.agreement(), least)
    if levels.equal < bounds.equal:
        problems.append(f"{100 * levels.equal:.2f} % of input levels are equal; allowed: {100 * bounds.equal:g} %")
    if size > stored * (1 + SIZE_SHARE) + graph + SIZE_BYTES:
        problems.append(f"the file takes {size} bytes, its containers {stored} and its graph {graph}")
    unfused, notes = _unfused(shipment, found.form, as_fused.kernels)
    slow = _slow(latency) if found.form.integer else []
    if found.form.integer:
        problems += [*unfused, *_fused_problems(as_fused, least), *slow]
    return Verification(
        problems=tuple(problems),
        slow=tuple(slow),
        images=heads.count,
        logit_levels=in_levels,
        logit_distance=distance,
        logit_roots=heads.roots(),
        top1_agreement=heads.agreement(),
        least_agreement=least,
        bounds=bounds,
        disagreements=disagreements,
        levels=levels,
        fused=as_fused,
        notes=tuple(notes),
        size=size,
        predicted=found.sizes["weights"] + found.sizes["overhead"] + found.sizes["float_rest"],
        stored=stored,
        graph=graph,
        latency=latency,
    )


class _Heads:
    """Sums over batches of what the two networks give."""

    def __init__(self) -> None:
        self.count = 0
        self.same = 0
        self.classifies = True
        self.lowest: list[float] = []
        self.highest: list[float] = []
        self.distance: list[float] = []
        self.squares: list[float] = []
        self.values: list[int] = []
        self.parted: list[Parted] = []

    def add(self, expected: Sequence[npt.NDArray[Any]], found: Sequence[npt.NDArray[Any]], batch: Samples) -> None:
        if [e.shape for e in expected] != [f.shape for f in found]:
            raise ArgumentError(
                f"against: gives heads {[e.shape for e in expected]}, the file {[f.shape for f in found]}"
            )
        if not self.distance:
            self.lowest, self.highest = [np.inf] * len(expected), [-np.inf] * len(expected)
            self.distance, self.squares = [0.0] * len(expected), [0.0] * len(expected)
            self.values = [0] * len(expected)
            self.classifies = len(expected) == 1 and expected[0].ndim == 2 and expected[0].shape[1] > 1
        for i, (e, f) in enumerate(zip(expected, found, strict=True)):
            finite = e[np.isfinite(e)]
            self.lowest[i] = min(self.lowest[i], float(finite.min(initial=np.inf)))
            self.highest[i] = max(self.highest[i], float(finite.max(initial=-np.inf)))
            # NaN is no distance from anything, not even from NaN: it counts as infinitely far.
            fine = len(finite) == e.size and np.isfinite(f).all()
            self.distance[i] = max(self.distance[i], float(np.abs(e - f).max()) if fine else np.inf)
            self.squares[i] += float(np.square(e - f, dtype=np.float64).sum()) if fine else np.inf
            self.values[i] += e.size
        if self.classifies:
            chosen, other = expected[0].argmax(1), found[0].argmax(1)
            same = (chosen == other) & np.isfinite(expected[0]).all(1) & np.isfinite(found[0]).all(1)
            self.same += int(same.sum())
            for row in np.flatnonzero(~same).tolist():
                logits = expected[0][row].tolist()
                self.parted.append(
                    Parted(
                        image=self.count + row,
                        batch=batch,
                        row=row,
                        expected=int(chosen[row]),
                        found=int(other[row]),
                        margin=logits[chosen[row]] - logits[other[row]],
                    )
                )
        self.count += number_of(batch)

    def agreement(self) -> float | None:
        return self.same / self.count if self.classifies and self.count else None

    def disagreement(self) -> float:
        """Return the share of images with another top-1 class; 0 where there are no classes."""
        agreement = self.agreement()
        return 0.0 if agreement is None else 1 - agreement

    def steps(self) -> list[float]:
        smallest = float(np.finfo(np.float32).tiny)
        return [max((h - lo) / 255, smallest) for lo, h in zip(self.lowest, self.highest, strict=True)]

    def distances(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        return tuple(self.distance), tuple(d / s for d, s in zip(self.distance, self.steps(), strict=True))

    def roots(self) -> tuple[float, ...]:
        """Return the root of the mean squared distance of each head, in output levels."""
        means = [square / max(n, 1) for square, n in zip(self.squares, self.values, strict=True)]
        return tuple(float(np.sqrt(mean)) / s for mean, s in zip(means, self.steps(), strict=True))


def _run(session: Any, batch: Samples) -> list[npt.NDArray[Any]]:
    return [h for h in run_session(session, batch) if h.dtype == np.float32]


def _stored(found: OnnxFile) -> int:
    return found.sizes["stored_weights"] + found.sizes["overhead"] + found.sizes["float_rest"]


def _parameter_problems(found: OnnxFile, shipment: Shipment) -> list[str]:
    if found.policy != shipment.policy:
        return ["the file is of another policy or network: its parameters can't be compared"]
    problems = []
    if found.fingerprints.get("network") != shipment.network_fingerprint():
        problems.append("the file names another float network than its parameters should come from")
    for layer, p, own in zip(found.layers, shipment.layers, shipment.products, strict=True):
        wrong = _layer_problem(layer, p, own.geometry)
        if wrong:
            problems.append(f"layer {p.name!r}: other parameters than expected: {wrong}")
    return problems


def _layer_problem(layer: OnnxLayer, p: LayerParameters, geometry: Geometry) -> str:
    """Return what differs between a layer in the file and what it should be, if anything."""
    bias = layer.bias
    if p.bias is None and bias is not None and not bias.any():  # zeros keep onnxruntime from fusing a product
        bias = None
    pairs = (
        ("weight scales", layer.scales, p.weight_scales),
        ("weights", layer.weight, None if p.weight is None else torch_layout(p.weight, geometry)),
        ("biases", bias, p.bias),
    )
    for what, there, wanted in pairs:
        if (there is None) != (wanted is None) or (
            there is not None and wanted is not None and not np.array_equal(there, wanted.cpu().numpy())
        ):
            return what
    if p.weight_levels is not None:
        wanted_levels = torch_layout(p.weight_levels, geometry).cpu().numpy()
        flat = layer.levels.reshape(-1)[: wanted_levels.size] if layer.levels is not None else None
        if flat is None or not np.array_equal(flat, wanted_levels.reshape(-1)):
            return "weight levels"
    if layer.input_scale is not None and p.activation_scale is not None:
        if layer.input_scale != float(np.float32(p.activation_scale)):
            return "input scale"
        if layer.input_zero_point != p.activation_zero_point:
            return "input zero point"
    return ""


def _output_problems(
    bounds: Bounds, in_levels: Sequence[float], roots: Sequence[float], agreement: float | None, least: float
) -> list[str]:
    problems = []
    for i, (largest, root) in enumerate(zip(in_levels, roots, strict=True)):
        for found, allowed, which in ((largest, bounds.largest, ""), (root, bounds.root, " (rms)")):
            # An infinite distance is one of NaN, which no bound allows.
            if not found <= allowed or not np.isfinite(found):
                problems.append(f"head {i} is {found:.3g} output levels{which} away; allowed: {allowed:g}")
                break
    if agreement is not None and agreement < least:
        problems.append(f"top-1 agrees on {100 * agreement:.2f} %; allowed: {100 * least:.4g} % or more")
    return problems


def graph_bytes(model: Any) -> int:
    """Return what nodes, names, notes and shapes take in a file, in bytes: all that is no parameter."""
    onnx = require_onnx()
    total: int = sum(part.ByteSize() for part in (*model.graph.node, *model.graph.input, *model.graph.output))
    total += sum(note.ByteSize() for note in model.metadata_props)
    for tensor in model.graph.initializer:
        whole = tensor.ByteSize()
        is_shape = tensor.data_type == onnx.TensorProto.INT64
        total += whole if is_shape else whole - len(tensor.raw_data)
    return total


def _unfused(shipment: Shipment, form: Form, kernels: Mapping[str, tuple[str, ...]]) -> tuple[list[str], list[str]]:
    """Return the layers that should run in integers and do not, as problems, and what stays float, as notes."""
    problems, notes = [], []
    for p in shipment.layers:
        if not form.integer or in_integers(kernels, p.name):
            continue
        found = ", ".join(kernels.get(p.name, ())) or "no node that is known to be its own"
        if not p.is_integer:
            notes.append(f"layer {p.name!r} runs in float: one of its sides has 16 or 32 bits")
        elif p.kind.startswith("ConvTranspose"):
            notes.append(f"layer {p.name!r} runs in float: onnxruntime has no such integer kernel")
        elif p.kind != "Linear" and not shipment.results:
            notes.append(f"layer {p.name!r} runs in float: results between layers are float here")
        else:
            problems.append(f"layer {p.name!r} should run in an integer kernel; onnxruntime runs it in: {found}")
    return problems, notes


def _fused_problems(fused: Fused, least: float) -> list[str]:
    advice = (
        "; products of 8 by 8 bits saturate on this processor: export with target 'avx2', or search weights of at most "
        "7 bits"
        if saturates()
        else ""
    )
    problems = [
        f"head {i}: integer kernels are {found:.3g} output levels (rms) away from the file as written; allowed: "
        f"{INTEGER.root:g}{advice}"
        for i, found in enumerate(fused.distance)
        if not found <= INTEGER.root
    ]
    agreement = fused.top1_agreement
    if agreement is not None and agreement < least:
        problems.append(
            f"top-1 of integer kernels agrees with torch on {100 * agreement:.2f} %; allowed: "
            f"{100 * least:.4g} % or more{advice}"
        )
    return problems


def _slow(latency: Latency | None) -> list[str]:
    if latency is None or latency.onnx <= latency.float_onnx:
        return []
    return [
        f"one image takes {latency.onnx:.3g} ms, {latency.float_onnx:.3g} ms in float ONNX: the file is slower than "
        "what it was made from"
    ]


def _latency(found: OnnxFile, against: nn.Module, shipment: Shipment, image: Samples, repeats: int) -> Latency:
    session = open_session(found.content, integer=True)
    floating = open_session(float_model(shipment, image), integer=True)
    times = in_turns(
        {
            "onnx": lambda: run_session(session, image),
            "float_onnx": lambda: run_session(floating, image),
            "quantized": lambda: run(against, image),
            "floating": lambda: run(shipment.network, image),
        },
        repeats,
    )
    return Latency(**{name: median(spent) for name, spent in times.items()})
