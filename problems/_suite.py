"""The benchmark suite: surrogate problems by name, read from the package's own data files."""

import io
import json
from dataclasses import fields
from functools import lru_cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from msgspec import Struct

from evoq_moo.errors import FormatError, check_name
from evoq_moo.files import BitWidth, Layout, parse_json, read_npz, reading
from evoq_moo.indicators import FrozenReference, log_scale
from evoq_moo.sensitivity import SensitivityTable
from evoq_moo.space import SpaceData

from ._surrogate_model import AdditiveModel, NoiseModel
from .surrogate import Surrogate, SurrogateProblem

FORMAT = "evoq-moo/surrogate"
VERSION = 2
VARIANTS: dict[str, tuple[str, ...]] = {
    "size": ("difference", "size"),
    "bops": ("difference", "bops"),
    "size-bops": ("difference", "size", "bops"),
    "bops-capped": ("difference", "bops"),
    "additive-size": ("difference", "size"),
    "additive-bops": ("difference", "bops"),
}
"""Objectives of each variant. Those named additive have no interactions between genes, and an exactly known front;
`bops-capped` has a budget: the size of the uniform 4-bit network."""
CAPPED_BITS = 4


def problem_names() -> tuple[str, ...]:
    """Return the names of all problems of the suite."""
    return tuple(f"{network}-{variant}" for network in _networks() for variant in VARIANTS)


def get_problem(name: str) -> SurrogateProblem:
    """Return a problem of the suite.

    Args:
        name: `NETWORK-VARIANT`, one of :func:`problem_names`, like ``"squeezenet1_1-bops"``. Variants: ``size`` and
            ``bops`` trade one cost against the difference, ``size-bops`` has both as objectives, ``bops-capped`` adds
            the size of the uniform 4-bit network as a budget, ``additive-size`` and ``additive-bops`` have no
            interactions between genes, so that their front is known exactly
            (:func:`evoq_moo.baselines.additive_front` of the problem's sensitivity table).

    Raises:
        UnknownNameError: No such problem; the message suggests the nearest.
    """
    check_name("name", name, problem_names())
    network, variant = next((n, v) for n in _networks() for v in VARIANTS if name == f"{n}-{v}")
    surrogate, references = _load(network)
    if variant.startswith("additive"):
        model = AdditiveModel(sensitivity=surrogate.sensitivity)
        surrogate = Surrogate(
            network=network,
            sensitivity=surrogate.sensitivity,
            model=model,
            provenance={**surrogate.provenance, "model": "the sum of the sensitivity table's entries, by definition"},
            fidelity={},
        )
    return SurrogateProblem(
        surrogate,
        objectives=VARIANTS[variant],
        budgets=variant_budgets(surrogate, variant),
        name=name,
        reference=references.get(variant),
    )


def variant_budgets(surrogate: Surrogate, variant: str) -> dict[str, float]:
    """Return the budgets of a variant."""
    if variant != "bops-capped":
        return {}
    space = surrogate.sensitivity.space
    problem = SurrogateProblem(surrogate, objectives=("size",))
    return {"size": float(problem.values(space.uniform(CAPPED_BITS)[None])["size"][0])}


@lru_cache(maxsize=1)
def _networks() -> tuple[str, ...]:
    files = resources.files(__package__).joinpath("data").iterdir()
    return tuple(sorted(file.name.removesuffix(".npz") for file in files if file.name.endswith(".npz")))


@lru_cache(maxsize=8)
def _load(network: str) -> tuple[Surrogate, dict[str, FrozenReference]]:
    return read_surrogate(resources.files(__package__).joinpath("data", f"{network}.npz").read_bytes())


def write_surrogate(surrogate: Surrogate, references: dict[str, FrozenReference]) -> bytes:
    """Return a surrogate with a fitted model, and the references of its problems, as the bytes of an ``.npz`` file."""
    model = surrogate.model
    if not isinstance(model, NoiseModel):
        raise FormatError(f"surrogate: given a {type(model).__name__}; allowed: a NoiseModel")
    meta: dict[str, Any] = {
        "format": FORMAT,
        "version": VERSION,
        "network": surrogate.network,
        "space": surrogate.sensitivity.space.to_json(),
        "bits": list(surrogate.sensitivity.bits),
        "metric": surrogate.sensitivity.metric,
        "provenance": dict(surrogate.provenance),
        "fidelity": dict(surrogate.fidelity),
        "references": {variant: found.provenance for variant, found in references.items()},
    }
    arrays = {f"model/{key}": value for key, value in model.arrays().items()}
    for variant, found in references.items():
        arrays[f"reference/{variant}/points"] = found.points
        arrays[f"reference/{variant}/ends"] = np.stack([found.ideal, found.nadir])
    file = io.BytesIO()
    np.savez_compressed(
        file,
        meta=np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8),
        sensitivity=surrogate.sensitivity.values,
        **arrays,
    )
    return file.getvalue()


class _Meta(Struct):
    format: Literal["evoq-moo/surrogate"]
    version: Literal[2]
    network: str
    space: SpaceData
    bits: tuple[BitWidth, ...]
    metric: str
    provenance: dict[str, Any]
    fidelity: dict[str, Any]
    references: dict[str, str]


def read_surrogate(data: bytes) -> tuple[Surrogate, dict[str, FrozenReference]]:
    """Rebuild what :func:`write_surrogate` gave.

    Raises:
        FormatError: The bytes are damaged or of an unknown version.
    """
    fitted = {f"model/{field.name}": Layout(kinds="fiu") for field in fields(NoiseModel)}
    # numpy and zipfile raise nearly anything on damaged archives.
    with reading("surrogate: damaged", catch=(Exception,)):
        arrays = read_npz(io.BytesIO(data), len(data), {"meta": Layout(kinds="u", ndim=1)})
        meta = parse_json(arrays["meta"].tobytes(), _Meta, nan=True)
        for variant in meta.references:
            check_name("references", variant, VARIANTS)
            fitted[f"reference/{variant}/points"] = fitted[f"reference/{variant}/ends"] = Layout(kinds="f", ndim=2)
        arrays = read_npz(io.BytesIO(data), len(data), {"sensitivity": Layout(kinds="f", ndim=2), **fitted})
        table = SensitivityTable(
            space=meta.space.space(), bits=meta.bits, values=arrays["sensitivity"], metric=meta.metric
        )
        model = {key.removeprefix("model/"): value for key, value in arrays.items() if key.startswith("model/")}
        surrogate = Surrogate(
            network=meta.network,
            sensitivity=table,
            model=NoiseModel.from_arrays(model),
            provenance=meta.provenance,
            fidelity=meta.fidelity,
        )
        references = {}
        for variant, provenance in meta.references.items():
            ideal, nadir = arrays[f"reference/{variant}/ends"]
            references[variant] = FrozenReference(
                objectives=VARIANTS[variant],
                log=log_scale(VARIANTS[variant]),
                ideal=ideal,
                nadir=nadir,
                points=arrays[f"reference/{variant}/points"],
                provenance=provenance,
            )
    return surrogate, references
