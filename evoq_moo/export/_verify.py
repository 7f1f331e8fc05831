"""`verify_onnx`: what an ONNX file computes against the network it was made from."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
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
from evoq_moo.export._levels import Disagreement, LevelReport, Parted, compare_levels, explain
from evoq_moo.export._read import OnnxFile, OnnxLayer, read_onnx
from evoq_moo.export._session import open_session, run_session
from evoq_moo.export._shipment import Shipment, shipment_of
from evoq_moo.graph import Geometry, Samples, join, rows, run, split, torch_layout
from evoq_moo.graph import count as number_of
from evoq_moo.progress import track
from evoq_moo.quantizer import LayerParameters

LOGIT_LEVELS = 2.0
"""Allowed distance of logits, in output levels."""
TOP1_AGREEMENT = 0.995
EQUAL_LEVELS = 0.99
"""Allowed share of input levels that are equal."""
SIZE_SHARE, SIZE_BYTES = 0.03, 64 * 1024
"""Allowed size beyond what the file's containers take: this share and so many bytes, for the graph."""
_EXPLAINED = 20


@dataclass(frozen=True, kw_only=True)
class Latency:
    """Time of one forward pass, one sample, one thread: medians (ms), taken in turns.

    Attributes:
        onnx: The file, onnxruntime with its default fusions.
        quantized: The quantized network in torch.
        floating: The float network in torch.
    """

    onnx: float
    quantized: float
    floating: float


@dataclass(frozen=True, kw_only=True)
class Verification:
    """What was found.

    Attributes:
        problems: Why the file is not what it should be, one sentence each; empty if it is.
        images: How many images were compared.
        logit_levels: For each head, the largest distance between the two, in output levels: 1/255 of the head's range
            over the images, the step an 8-bit quantizer of it would have (our unit: outputs are float32).
        logit_distance: The same, in the head's own unit.
        top1_agreement: How often the largest logit is the same, 0..1; None where the network is no classifier.
        disagreements: The images where it is not, and where the two part.
        levels: Input levels of every layer on the first images.
        size: Of the file (bytes).
        predicted: The size objective and its overhead, and what is float beside (bytes).
        stored: The same with weights in their containers (bytes).
        latency: Times; None if not asked for.
    """

    problems: tuple[str, ...]
    images: int
    logit_levels: tuple[float, ...]
    logit_distance: tuple[float, ...]
    top1_agreement: float | None
    disagreements: tuple[Disagreement, ...]
    levels: LevelReport
    size: int
    predicted: int
    stored: int
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
            f">= {100 * EQUAL_LEVELS:g} % equal",
        )
        for i, (levels, distance) in enumerate(zip(self.logit_levels, self.logit_distance, strict=True)):
            name = "logits" if len(self.logit_levels) == 1 else f"head {i}"
            table.add_row(name, f"within {levels:.3g} output levels ({distance:.3g})", f"<= {LOGIT_LEVELS:g}")
        if self.top1_agreement is not None:
            table.add_row(
                f"top-1 agreement ({self.images} images)",
                f"{100 * self.top1_agreement:.2f} %",
                f">= {100 * TOP1_AGREEMENT:g} %",
            )
        table.add_row(
            "file (KiB)",
            f"{self.size / 1024:.1f}; predicted {self.predicted / 1024:.1f}, "
            f"in its containers {self.stored / 1024:.1f}",
            f"<= containers + {100 * SIZE_SHARE:g} % + {SIZE_BYTES // 1024} KiB",
        )
        if self.latency is not None:
            table.add_row(
                "one image, one thread (ms)",
                f"onnxruntime {self.latency.onnx:.2f}, torch quantized {self.latency.quantized:.2f}, "
                f"torch float {self.latency.floating:.2f}",
                "",
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
    """Compare an ONNX file with the network it was made from.

    The file is computed by onnxruntime on the CPU as it stands (no fusion into integer kernels), except for its
    latency, which is that of onnxruntime's defaults. torch computes the network in the file's own form: where that is
    the exact one, by :func:`exact_network`.

    Args:
        path: The file.
        against: The network: a `CalibratedNetwork`, or what `QuantizedNetwork.apply` gives.
        images: Preprocessed float32 images `(n, ...)`, or samples in any form that the network takes; or an iterator
            of batches of them.
        level_images: How many of them to compare the levels of every layer's input on.
        repeats: Passes for the latency; 0 for none.
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
    session = open_session(found.content)
    heads = _Heads()
    kept: list[Samples] = []
    with track(
        number_of(images) if whole else count,  # type: ignore[arg-type]
        "verifying",
        enabled=progress,
    ) as bar:
        for batch in batches:
            with torch.no_grad():
                expected = [head.numpy() for head in heads_of(run(computed, batch))]
            heads.add(expected, _run(session, batch), batch)
            missing = level_images - sum(map(number_of, kept))
            if missing > 0:
                kept.append(rows(batch, slice(0, missing)))
            bar.advance(number_of(batch))
    if not kept:
        raise ArgumentError("images: given none; allowed: at least one")
    levels = compare_levels(found, computed, shipment.layers, join(kept))
    disagreements = explain(found, computed, shipment.layers, heads.parted[:_EXPLAINED])
    distance, in_levels = heads.distances()
    size, stored = len(found.content), _stored(found)
    problems += _problems(in_levels, heads.agreement(), levels, size, stored)
    return Verification(
        problems=tuple(problems),
        images=heads.count,
        logit_levels=in_levels,
        logit_distance=distance,
        top1_agreement=heads.agreement(),
        disagreements=disagreements,
        levels=levels,
        size=size,
        predicted=found.sizes["weights"] + found.sizes["overhead"] + found.sizes["float_rest"],
        stored=stored,
        latency=_latency(found, against, shipment, rows(kept[0], slice(0, 1)), repeats) if repeats else None,
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
        self.parted: list[Parted] = []

    def add(self, expected: Sequence[npt.NDArray[Any]], found: Sequence[npt.NDArray[Any]], batch: Samples) -> None:
        if [e.shape for e in expected] != [f.shape for f in found]:
            raise ArgumentError(
                f"against: gives heads {[e.shape for e in expected]}, the file {[f.shape for f in found]}"
            )
        if not self.distance:
            self.lowest, self.highest = [np.inf] * len(expected), [-np.inf] * len(expected)
            self.distance = [0.0] * len(expected)
            self.classifies = len(expected) == 1 and expected[0].ndim == 2 and expected[0].shape[1] > 1
        for i, (e, f) in enumerate(zip(expected, found, strict=True)):
            finite = e[np.isfinite(e)]
            self.lowest[i] = min(self.lowest[i], float(finite.min(initial=np.inf)))
            self.highest[i] = max(self.highest[i], float(finite.max(initial=-np.inf)))
            # NaN is no distance from anything, not even from NaN: it counts as infinitely far.
            fine = len(finite) == e.size and np.isfinite(f).all()
            self.distance[i] = max(self.distance[i], float(np.abs(e - f).max()) if fine else np.inf)
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
        return self.same / self.count if self.classifies else None

    def distances(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        smallest = float(np.finfo(np.float32).tiny)
        steps = [max((h - lo) / 255, smallest) for lo, h in zip(self.lowest, self.highest, strict=True)]
        return tuple(self.distance), tuple(d / s for d, s in zip(self.distance, steps, strict=True))


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


def _problems(
    in_levels: Sequence[float], agreement: float | None, levels: LevelReport, size: int, stored: int
) -> list[str]:
    problems = [
        f"head {i} is {found:.3g} output levels away; allowed: {LOGIT_LEVELS:g}"
        for i, found in enumerate(in_levels)
        if not found <= LOGIT_LEVELS
    ]
    if agreement is not None and agreement < TOP1_AGREEMENT:
        problems.append(f"top-1 agrees on {100 * agreement:.2f} %; allowed: {100 * TOP1_AGREEMENT:g} % or more")
    if levels.equal < EQUAL_LEVELS:
        problems.append(f"{100 * levels.equal:.2f} % of input levels are equal; allowed: {100 * EQUAL_LEVELS:g} %")
    if size > stored * (1 + SIZE_SHARE) + SIZE_BYTES:
        problems.append(f"the file takes {size} bytes, its containers {stored}")
    return problems


def _latency(found: OnnxFile, against: nn.Module, shipment: Shipment, image: Samples, repeats: int) -> Latency:
    session = open_session(found.content, integer=True)
    networks: tuple[Callable[[], Any], ...] = (
        lambda: _run(session, image),
        lambda: run(against, image),
        lambda: run(shipment.network, image),
    )
    times: list[list[float]] = [[], [], []]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.no_grad():
            for i in range(repeats + 1):
                for one, spent in zip(networks, times, strict=True):
                    begun = time.perf_counter()
                    one()
                    if i:  # the first pass warms up
                        spent.append(1000 * (time.perf_counter() - begun))
    finally:
        torch.set_num_threads(threads)
    onnx, quantized, floating = (median(spent) for spent in times)
    return Latency(onnx=onnx, quantized=quantized, floating=floating)
