"""What must be true of any network that is given to `QuantizedNetwork`, stage by stage.

`examine` runs stages and returns a `Report`. What is compared with is always the network as it was given, never a copy
that was prepared for the search. A stage that finds a wrong value is told apart from one that ends in an error: only
the first is wrong silently.
"""

import logging
import math
import pickle
import random
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakIdKeyDictionary

import evoq_moo as evoq
from evoq_moo.difference import heads_of
from evoq_moo.errors import EvoqError, NetworkError
from evoq_moo.export import export_onnx, open_session, verify_onnx
from evoq_moo.export._session import run_session
from tests.graph.cases import Case, Samples

OUTPUT_ERROR = 1e-4
"""Allowed largest error of float outputs, relative to the largest output of the head."""
DISAGREEMENT, DISAGREEMENT_FLOOR = 0.1, 1e-6
"""Allowed distance of two differences of one policy: this share, and this much."""
FLOAT_DIFFERENCE = 1e-8
"""Allowed difference of a policy that quantizes nothing."""
GOAL = 0.99
"""Share of MACs that needs no note."""
FILE_NOISE = 0.1
"""Allowed distance of a file's outputs, in rms of what quantization changes in them."""
WRONG, STATED, REFUSED, ERROR = "wrong", "stated", "refused", "error"
"""Kinds of problems: a wrong value that nothing tells of, a value that misses its goal and a note says so, one of our
errors that was not expected, any other error."""
aten = torch.ops.aten
FORMULAS = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
}
"""Torch's formulas for the floating-point operations of products; its list lacks attention on a CPU."""


class FoundError(AssertionError):
    """A value is not what it must be.

    Args:
        message: What was found.
        kind: `WRONG` or `STATED`.
    """

    def __init__(self, message: str, kind: str) -> None:
        super().__init__(message)
        self.kind = kind


@dataclass
class Report:
    """What was found of one network.

    Attributes:
        name: Of the network.
        figures: What was measured.
        problems: For each stage that failed, its kind and a message.
        passed: Names of stages that passed.
        refused: The message with which the network was refused, as it was expected; else None.
        running: The stage in progress.
    """

    name: str
    figures: dict[str, Any] = field(default_factory=dict)
    problems: dict[str, tuple[str, str]] = field(default_factory=dict)
    passed: list[str] = field(default_factory=list)
    refused: str | None = None
    running: str | None = None

    def __str__(self) -> str:
        lines = [f"{stage}: {kind}: {message}" for stage, (kind, message) in self.problems.items()]
        return "\n".join([self.name, *lines])


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the stages do.

    Attributes:
        stages: Names of :data:`STAGES` that follow the set-up.
        difference: The metric.
        threads: Micro-batches at once.
        calibration: Steps of calibration.
        evaluations: Of the search.
        refusal_seconds: Longest allowed time until a network is refused.
    """

    stages: tuple[str, ...]
    difference: str = "auto"
    threads: int = 1
    calibration: str = "full"
    evaluations: int = 30
    refusal_seconds: float = 10.0


# --- Samples and outputs ---


def call(model: nn.Module, samples: Samples) -> Any:
    """Return a network's output; a tuple gives positional arguments, a mapping keyword arguments."""
    if isinstance(samples, Mapping):
        return model(**samples)
    return model(*samples) if isinstance(samples, tuple) else model(samples)


def tensors_of(samples: Samples) -> list[Tensor]:
    """Return the tensors of samples in order."""
    if isinstance(samples, Mapping):
        return list(samples.values())
    return list(samples) if isinstance(samples, tuple) else [samples]


def copied(samples: Samples) -> Samples:
    """Return samples that share no memory with the given ones."""
    if isinstance(samples, Mapping):
        return {name: tensor.clone() for name, tensor in samples.items()}
    return tuple(tensor.clone() for tensor in samples) if isinstance(samples, tuple) else samples.clone()


def relative_error(expected: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    """Return the largest error over heads, relative to the largest value of the head; infinite where shapes differ."""
    if [e.shape for e in expected] != [f.shape for f in found]:
        return math.inf
    errors = [
        float((e.double() - f.double()).abs().max() / e.double().abs().max().clamp_min(1e-30))
        for e, f in zip(expected, found, strict=True)
    ]
    return max(math.inf if math.isnan(error) else error for error in errors)


# --- An independent count of MACs ---


class ProductCounter(TorchDispatchMode):
    """Counts MACs by torch's own formulas, and follows which tensors depend on the samples.

    Args:
        samples: The tensors that everything else is constant against.

    Attributes:
        constant: MACs of products of a constant and something that depends on the samples.
        activations: MACs of products of two such things.
    """

    def __init__(self, samples: Sequence[Tensor]) -> None:
        super().__init__()
        self.constant = self.activations = 0
        self._varying = WeakIdKeyDictionary()  # storages, so that writing into a part marks the whole
        self._mark(samples)

    def _mark(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            self._varying[tensor.untyped_storage()] = True

    def _varies(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage() in self._varying

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Compute an operator, count it and mark its results."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        if not any(self._varies(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)):
            return result
        formula = FORMULAS.get(func._overloadpacket)
        if formula is not None:
            first = 1 if func._overloadpacket.__name__ in ("addmm", "baddbmm") else 0
            operands = args[first : first + 2]
            macs = int(formula(*args, **kwargs, out_val=result)) // 2
            if all(self._varies(x) for x in operands):
                self.activations += macs
            else:
                self.constant += macs
        self._mark(x for x in tree_leaves(result) if isinstance(x, Tensor))
        return result


@contextmanager
def ignored_warnings() -> Iterator[None]:
    """Ignore warnings of what is not under test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def plain_operators(model: nn.Module) -> Iterator[None]:
    """Keep torch from computing attention and recurrent layers in operators that it has no formula for."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    recurrent = any(isinstance(module, nn.RNNBase) for module in model.modules())
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with ignored_warnings(), torch.backends.mkldnn.flags(enabled=False) if recurrent else nullcontext():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast_path)


# --- What belongs to the caller ---


def bits_of(tensor: Tensor) -> Any:
    """Return a tensor's dtype and bytes, or what can be known of one that holds none."""
    if tensor.is_meta or isinstance(tensor, nn.parameter.UninitializedTensorMixin):
        return str(tensor.dtype), str(type(tensor))
    return str(tensor.dtype), tensor.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes()


def state_hashes(model: nn.Module) -> dict[str, int]:
    """Return a hash of each parameter and buffer by name."""
    state = model.state_dict(keep_vars=True)
    return {name: hash(bits_of(tensor)) for name, tensor in state.items() if isinstance(tensor, Tensor)}


def snapshot(model: nn.Module, samples: Samples) -> dict[str, Any]:
    """Return everything of the caller's that must stay as it is."""
    names = dict(model.named_modules())
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_state_dict_hooks")
    return {
        "parameters and buffers": state_hashes(model),
        "gradients": {name: parameter.requires_grad for name, parameter in model.named_parameters()},
        "modules": {name: type(module) for name, module in names.items()},
        "training mode": {name: module.training for name, module in names.items()},
        "hooks": {(name, kind): len(getattr(module, kind, ())) for name, module in names.items() for kind in hooks},
        "samples": [hash(bits_of(tensor)) for tensor in tensors_of(samples)],
        "torch's random state": hash(torch.get_rng_state().numpy().tobytes()),
        "numpy's random state": hash(np.random.get_state()[1].tobytes()),  # noqa: NPY002
        "Python's random state": hash(random.getstate()),
        "gradient mode": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "default dtype": torch.get_default_dtype(),
    }


# --- The stages ---


class Subject:
    """One network on its way through the stages.

    Args:
        case: The network, its samples and what is expected.
        options: What the stages do.
        report: Where findings go.
    """

    def __init__(self, case: Case, options: Options, report: Report) -> None:
        self.case, self.options, self.report = case, options, report
        self.model = case.make()
        self.samples = case.samples()
        self.network: Any = None
        self.policies: list[evoq.Policy] = []
        self.differences: list[float] = []
        self.owned = snapshot(self.model, self.samples)
        self.state = self.owned["parameters and buffers"]

    def quantized(self, model: nn.Module, samples: Samples, **options: Any) -> Any:
        """Return a network made ready for search."""
        return evoq.QuantizedNetwork(
            model,
            samples,
            pinned="none",
            difference=self.options.difference,
            threads=self.options.threads,
            progress=False,
            **options,
        )

    def changes(self) -> list[str]:
        """Return what of the caller's has changed since the last call."""
        before, self.owned = self.owned, snapshot(self.model, self.samples)
        return [kind for kind, value in self.owned.items() if value != before[kind]]


def check(condition: bool, message: str, *, kind: str = WRONG) -> None:
    """Raise unless a condition holds."""
    if not condition:
        raise FoundError(message, kind)


def check_close(what: str, expected: float, found: float) -> float:
    """Return how far two differences of one policy are apart, in what is allowed; raise where it is more."""
    apart = abs(expected - found) / (DISAGREEMENT * abs(expected) + DISAGREEMENT_FLOOR)
    check(apart <= 1, f"{what}: {found:.4g} for {expected:.4g}")
    return apart


def outputs(subject: Subject) -> None:
    """Compare the float outputs with those of the given network, and count its MACs in the same pass."""
    model, samples = subject.case.make(), copied(subject.samples)
    if state_hashes(model) != subject.state:
        raise RuntimeError("the case makes another network each time")
    model.eval().float()
    counter = ProductCounter(tensors_of(samples))
    with torch.no_grad(), plain_operators(model), counter:
        expected = heads_of(call(model, samples))
    count = len(tensors_of(samples)[0])
    figures = subject.report.figures
    layers = subject.network.space.layers
    figures["layers"] = len(layers)
    figures["output_error"] = relative_error(expected, subject.network.float_heads)
    figures["constant_macs"] = counter.constant // count
    figures["activation_macs"] = counter.activations // count
    figures["quantized_share"] = sum(layer.macs for layer in layers) * count / max(counter.constant, 1)
    check(figures["output_error"] <= OUTPUT_ERROR, f"float outputs differ by {figures['output_error']:.3g}")


def share(subject: Subject) -> None:
    """Compare the MACs of the layers with the independent count; what stays in float must be said in a note."""
    found, least = subject.report.figures["quantized_share"], subject.case.share
    said = any("float" in note for note in subject.network.notes)
    message = f"layers count {100 * found:.2f} % of the MACs of constant products"
    if least is None:
        check(found >= GOAL or said, f"{message}, and no note says what stays in float")
    else:
        check(found >= least, message, kind=STATED if said else WRONG)
        check(found <= 2 - least, message)


def float_policy(subject: Subject) -> None:
    """Evaluate the policy that quantizes nothing."""
    network = subject.network
    nothing = np.full((len(network.space.layers), 2), 32)
    found = network.difference_of(nothing)
    zero = network.difference_between(network.float_heads)
    subject.report.figures["float_difference"] = found - zero
    check(abs(found - zero) <= FLOAT_DIFFERENCE, f"32/32 bits give {found:.3g}, equal outputs {zero:.3g}")


def repeatable(subject: Subject) -> None:
    """Evaluate policies twice, in two orders."""
    vectors = subject.network.space.sample(1, np.random.default_rng(5))
    subject.policies = [subject.network.uniform(b) for b in (8, 4)] + [subject.network.space.policy(vectors[0])]
    subject.differences = [evaluated(subject.network, policy) for policy in subject.policies]
    again = [evaluated(subject.network, policy) for policy in reversed(subject.policies)][::-1]
    subject.report.figures["differences"] = subject.differences
    check(again == subject.differences, f"the same policies give {subject.differences}, then {again}")


def evaluated(network: Any, policy: evoq.Policy) -> float:
    """Return the difference of a policy."""
    return float(network.difference_of(policy.to_array()))


def engines(subject: Subject) -> None:
    """Compare the reference engine with the one that was chosen."""
    network, figures = subject.network, subject.report.figures
    figures["engine"] = network.engine_name
    if network.engine_name == "reference":
        return
    reference = subject.quantized(subject.case.make(), subject.samples, engine="reference")
    pairs = [(evaluated(reference, p), d) for p, d in zip(subject.policies, subject.differences, strict=True)]
    figures["engine_disagreement"] = max(abs(r - d) / (abs(r) + 1e-12) for r, d in pairs)
    for policy, (expected, found) in zip(("8 bits", "4 bits", "random bits"), pairs, strict=True):
        check_close(f"{policy}, {network.engine_name} engine for reference engine", expected, found)


def apply(subject: Subject) -> None:
    """Compare the differences of applied policies with those that were evaluated."""
    for policy, difference in zip(subject.policies, subject.differences, strict=True):
        applied = subject.network.apply(policy)
        check_close("apply() for difference_of()", difference, difference_outside(subject, applied))


def difference_outside(subject: Subject, model: nn.Module) -> float:
    """Return the difference of a network that computes by itself."""
    with torch.no_grad():
        heads = heads_of(call(model, copied(subject.samples)))
    return float(subject.network.difference_between(heads))


def twin(subject: Subject) -> None:
    """Compare the differences of uniform policies with those of the same network in plain layers."""
    if subject.case.twin is None:
        return
    with torch.random.fork_rng(devices=[]):
        model = subject.case.twin(subject.case.make())
    plain = subject.quantized(model, subject.case.samples())
    for bits in (8, 4):
        expected, found = (evaluated(network, network.uniform(bits)) for network in (plain, subject.network))
        check_close(f"{bits} bits, for the same network in plain layers", expected, found)


def search(subject: Subject) -> None:
    """Search for a front, tiny."""
    evaluations = subject.options.evaluations
    run = evoq.search(subject.network, evaluations=evaluations, pop_size=10, seed=1, progress=False)
    check(len(run.front) > 0, "the front is empty")
    values = [point.difference for point in run.front.points]
    check(all(math.isfinite(value) for value in values), f"differences of the front: {values}")


def check_refused(attempt: Callable[[], object]) -> None:
    """Check that what needs the network as a graph says so."""
    try:
        attempt()
    except NetworkError as error:
        check("captured as a graph" in str(error) or "as a graph" in str(error), str(error))
    else:
        check(False, "a network that was not captured is not refused")


def calibrate(subject: Subject) -> None:
    """Calibrate the random policy, and compare its difference with the one that the report tells."""
    if not subject.case.captured:
        check_refused(lambda: evoq.calibrate(subject.network, subject.policies[-1], progress=False))
        return
    calibrated = evoq.calibrate(subject.network, subject.policies[-1], subject.options.calibration, progress=False)
    told = subject.differences[-1]
    for step in calibrated.report.steps:
        told = step.after if step.outcome == "kept" else told
    found = difference_outside(subject, calibrated)
    subject.report.figures["calibrated"] = found
    check_close("the calibrated network for its report", told, found)


def export(subject: Subject) -> None:
    """Export the random policy; onnxruntime with default options must give the applied network's outputs."""
    applied = subject.network.apply(subject.policies[-1])
    if not subject.case.captured:
        check_refused(lambda: export_onnx(applied, Path(tempfile.gettempdir()) / "m.onnx", sample=subject.samples))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        export_onnx(applied, path, sample=subject.samples, target="avx2")  # exact on every processor
        found = run_file(path, subject.samples)
        subject.report.figures["file_kib"] = path.stat().st_size / 1024
    with torch.no_grad():
        expected = heads_of(call(applied, copied(subject.samples)))
    shapes = [[tuple(head.shape) for head in heads] for heads in (found, expected)]
    check(shapes[0] == shapes[1], f"the file gives outputs {shapes[0]}, the network {shapes[1]}")
    noise = 0.0
    for f, e, exact in zip(found, expected, subject.network.float_heads, strict=True):
        noise = max(noise, rms(f - e) / (rms(e - exact) + OUTPUT_ERROR / FILE_NOISE * rms(exact) + 1e-30))
    subject.report.figures["file_noise"] = noise
    check(noise <= FILE_NOISE, f"the file's outputs are {noise:.3g} of the quantization noise away")


def rms(x: Tensor) -> float:
    """Return the root of the mean square."""
    return float(x.double().square().mean().sqrt())


def run_file(path: Path, samples: Samples) -> list[Tensor]:
    """Return the floating-point outputs of a file."""
    found = run_session(open_session(path, integer=True), samples)
    return [torch.from_numpy(head) for head in found if np.issubdtype(head.dtype, np.floating)]


def verify(subject: Subject) -> None:
    """Let `verify_onnx` compare a file with the applied network."""
    if not subject.case.captured:
        return
    applied = subject.network.apply(subject.policies[-1])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "m.onnx"
        export_onnx(applied, path, sample=subject.samples, target="avx2")  # exact on every processor
        found = verify_onnx(path, applied, subject.samples, repeats=0, level_images=2, progress=False)
    check(found.passed, "; ".join(found.problems))


def pickled(subject: Subject) -> None:
    """Send the network to a worker and back, where the given one can be sent at all."""
    try:
        pickle.dumps(subject.model)
    except Exception:  # classes of functions, parametrizations, script: many errors
        return
    returned = pickle.loads(pickle.dumps(subject.network))
    check(returned.fingerprint == subject.network.fingerprint, "a pickled network has another fingerprint")
    found = difference_outside(subject, returned.apply(subject.policies[-1]))
    check_close("a pickled network for the network", subject.differences[-1], found)


STAGES: dict[str, Callable[[Subject], None]] = {
    "outputs": outputs,
    "share": share,
    "float_policy": float_policy,
    "repeatable": repeatable,
    "engines": engines,
    "apply": apply,
    "twin": twin,
    "search": search,
    "calibrate": calibrate,
    "export": export,
    "verify": verify,
    "pickled": pickled,
}
"""What follows the set-up, in this order; "repeatable" evaluates what the later ones compare with."""
NEEDS = {"share": "outputs"} | dict.fromkeys(
    ("engines", "apply", "search", "calibrate", "export", "verify", "pickled"), "repeatable"
)
"""Stages that go on from what another one computed."""


class Lines(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line."""
        self.lines.append(record.getMessage())


@contextmanager
def logged() -> Iterator[list[str]]:
    """Give the lines that evoq-moo logs."""
    logger, handler = logging.getLogger("evoq_moo"), Lines()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield handler.lines
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def examine(case: Case, options: Options, *, progress: Callable[[Report], None] = lambda report: None) -> Report:
    """Return what is found of one network.

    Args:
        case: The network, its samples and what is expected.
        options: What the stages do.
        progress: Called with the report before and behind each stage.
    """
    report = Report(case.name)
    subject = Subject(case, options, report)
    with logged() as lines:
        run(subject, "setup", set_up, progress)
        for stage in options.stages if subject.network is not None else ():
            run(subject, stage, STAGES[stage], progress)
    report.figures["log"] = lines
    return report


def run(subject: Subject, stage: str, function: Callable[[Subject], None], progress: Callable[[Report], None]) -> None:
    """Run one stage, unless one that it needs failed, and look whether it left the caller's things alone."""
    report = subject.report
    if report.problems.get(NEEDS.get(stage, ""), ("",))[0] in (REFUSED, ERROR):
        report.problems[stage] = (ERROR, f"needs {NEEDS[stage]}")
        return
    report.running = stage
    progress(report)
    begun = time.perf_counter()
    try:
        function(subject)
        report.passed.append(stage)
    except FoundError as error:
        report.problems[stage] = (error.kind, str(error))
    except EvoqError as error:
        report.problems[stage] = (REFUSED, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
    except Exception as error:  # whatever it is belongs into the report
        report.problems[stage] = (ERROR, f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
    report.figures[f"{stage}_seconds"] = round(time.perf_counter() - begun, 3)
    changed = subject.changes()
    if changed and "untouched" not in report.problems:
        report.problems["untouched"] = (WRONG, f"{stage} changes the caller's {', '.join(changed)}")
    report.running = None
    progress(report)


def set_up(subject: Subject) -> None:
    """Make the network ready, or see it refused as expected."""
    case, begun = subject.case, time.perf_counter()
    try:
        network = subject.quantized(subject.model, subject.samples)
    except EvoqError as error:
        taken = time.perf_counter() - begun
        if case.refused is None:
            raise
        message = str(error)
        check(re.search(case.refused, message) is not None, f"refused for another reason: {message}")
        check(taken <= subject.options.refusal_seconds, f"refused after {taken:.1f} s")
        subject.report.refused = message
        return
    expected = case.refused is None or case.optional
    check(expected, f"accepted; it should be refused, saying something like {case.refused!r}")
    subject.network = network
    subject.report.figures["notes"] = list(network.notes)
