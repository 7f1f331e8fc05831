"""Which networks are searched, calibrated and exported correctly: torchvision, timm, detectors, video, small oddities.

    python benchmarks/coverage.py run -o coverage.json              # all rows, or those that are missing
    python benchmarks/coverage.py run 'timm/*' 'small/*' -o coverage.json
    python benchmarks/coverage.py show coverage.json

Each row runs in a process of its own, within a time limit, and goes through the stages of `tests/graph/stages.py`,
which compare with the network as it was given. Weights are random: BatchNorm gets the statistics of random images, and
parameters that begin as constants (scales of residual branches, biases) are drawn, so that every layer matters. The
small networks are those of `tests/graph/cases.py`. Networks of timm need `pip install 'evoq-moo[coverage]'`.

Columns: largest relative error of float outputs; share of the MACs of products with constant weights that is
quantized, by a count of our own; engine; largest disagreement of reference and chosen engine, relative; distance of an
ONNX file in onnxruntime to the applied network, in quantization noise; seconds; peak memory; what failed. Why an engine
was chosen is in the JSON, under "log".
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)  # the folder of this file would hide the package `coverage`, which numba imports

import json  # noqa: E402
import platform  # noqa: E402
import resource  # noqa: E402
import subprocess  # noqa: E402
import tempfile  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from collections.abc import Callable, Iterator, Mapping  # noqa: E402
from contextlib import contextmanager  # noqa: E402
from dataclasses import asdict, replace  # noqa: E402
from fnmatch import fnmatch  # noqa: E402
from functools import cache, partial  # noqa: E402
from typing import Annotated, Any  # noqa: E402

import torch  # noqa: E402
import torchvision  # noqa: E402
import typer  # noqa: E402
from rich.console import Console  # noqa: E402
from rich.table import Table  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torchvision.models.video.mvit import MSBlockConfig, MViT  # noqa: E402

import evoq_moo as evoq  # noqa: E402
from evoq_moo.files import write_atomically  # noqa: E402
from evoq_moo.zoo._ssd import SSDHeads  # noqa: E402
from tests.graph.cases import CASES, Case, Samples  # noqa: E402
from tests.graph.stages import ERROR, REFUSED, STAGES, STATED, WRONG, Options, Report, call, examine  # noqa: E402

app = typer.Typer(add_completion=False, help=__doc__)
console = Console(width=200 if not sys.stdout.isatty() else None)
COUNT = 6
LEAST_GAIN, GAIN = 0.8, 2**0.5
"""Layers whose weights let less of a signal through get weights that let so much through (what ReLU halves)."""
SIDES = (96, 128)
"""Sides of images that are tried for a network of timm before its own."""
CLASSIFIERS = {
    "alexnet": 96,
    "vgg11": 64,
    "vgg11_bn": 64,
    "resnet18": 64,
    "resnet50": 64,
    "resnext50_32x4d": 64,
    "wide_resnet50_2": 64,
    "squeezenet1_0": 96,
    "squeezenet1_1": 96,
    "densenet121": 64,
    "inception_v3": 128,
    "googlenet": 64,
    "shufflenet_v2_x0_5": 64,
    "shufflenet_v2_x1_0": 64,
    "mobilenet_v2": 64,
    "mobilenet_v3_small": 64,
    "mobilenet_v3_large": 64,
    "efficientnet_b0": 64,
    "efficientnet_v2_s": 64,
    "mnasnet0_5": 64,
    "mnasnet1_0": 64,
    "regnet_x_400mf": 64,
    "regnet_y_400mf": 64,
    "convnext_tiny": 64,
    "vit_b_32": 64,
    "swin_t": 64,
    "swin_v2_t": 64,
    "maxvit_t": 224,
}
"""torchvision's classifiers, and the side of their images (pixels)."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "inception_v3": {"init_weights": False},
    "googlenet": {"init_weights": False},
    "vit_b_32": {"image_size": 64},
}
SEGMENTERS = ("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "fcn_resnet50", "lraspp_mobilenet_v3_large")
VIDEO = {
    "r3d_18": (8, 64),
    "mc3_18": (8, 64),
    "r2plus1d_18": (8, 64),
    "s3d": (16, 224),
    "swin3d_t": (8, 64),
}
"""Networks on clips: frames and side of the images."""
DETECTORS = {"ssd_mobilenet_v1_075_coco": 300, "ssd300_vgg16": 300, "ssd300_resnet50": 300}
"""The zoo's detectors with raw heads, and the side of their images."""
FLOW = {"raft_small": 128}
TIMM = """
    beit_base_patch16_224 lambda_resnet26t botnet26t_256 halonet26t repvgg_a0 mobileone_s0 cait_xxs24_224
    coat_lite_tiny convit_tiny convmixer_768_32 convnext_atto convnextv2_atto crossvit_tiny_240 cspdarknet53
    cspnext_tiny davit_tiny deit_tiny_patch16_224 deit_tiny_distilled_patch16_224 densenet121 dla34 dpn48b
    edgenext_xx_small efficientformer_l1 efficientformerv2_s0 efficientnet_b0 tf_efficientnet_lite0 mobilenetv2_050
    mnasnet_small fbnetc_100 spnasnet_100 mixnet_s tinynet_e efficientvit_b0 efficientvit_m0 eva02_tiny_patch14_224
    fasternet_t0 fastvit_t8 focalnet_tiny_srf gcvit_xxtiny ghostnet_050 ghostnetv2_100 ghostnetv3_050 hardcorenas_a
    hgnetv2_b0 hiera_tiny_224 hrnet_w18_small inception_next_atto inception_resnet_v2 inception_v4 lcnet_050
    lcnetv2_small levit_128s levit_conv_128s mambaout_femto maxvit_rmlp_pico_rw_256 coatnet_nano_rw_224
    poolformer_s12 caformer_s18 mixer_s32_224 gmlp_ti16_224 resmlp_12_224 mobilenetv3_small_050
    mobilenetv4_conv_small mobilevit_xxs mobilevitv2_050 mvitv2_tiny nest_tiny nextvit_small eca_nfnet_l0
    nf_resnet26 pit_ti_224 pvt_v2_b0 rdnet_tiny regnetx_002 regnety_002 repghostnet_050 repvit_m0_9 res2net50_26w_4s
    resnest14d resnet18 resnet26d resnetv2_18 resnetv2_50x1_bit seresnet18 rexnet_100 selecsls42 legacy_seresnet18
    sequencer2d_s shvit_s1 skresnet18 starnet_s1 swiftformer_xs swin_tiny_patch4_window7_224 swinv2_tiny_window8_256
    swinv2_cr_tiny_224 tiny_vit_5m_224 tnt_s_patch16_224 tresnet_m twins_pcpvt_small twins_svt_small vgg11_bn
    visformer_tiny vit_tiny_patch16_224 vit_relpos_small_patch16_224 vit_small_r26_s32_224 vitamin_small_224
    volo_d1_224 ese_vovnet19b_dw xception41 xcit_nano_12_p16_224 lowformer_b0 iformer_t cpubone_nano
""".split()  # noqa: SIM905
"""One small network of each family of timm that classifies images, or two where the members differ in kind."""


VERDICTS = (
    "passed",
    "passed, part in float",
    "refused as expected",
    "refused at set-up",
    "failed",
    "wrong silently",
)
"""What may become of a row: in the last, a value was wrong and no error said so."""


# --- The rows ---


def images(*shape: int, count: int = COUNT, seed: int = 0) -> Tensor:
    """Return random images `(count, *shape)`: fine noise on coarse patterns."""
    generator = torch.Generator().manual_seed(seed)
    fine = torch.randn(count, *shape, generator=generator)
    coarse = torch.randn(count, *shape[:-2], 4, 4, generator=generator).flatten(0, -4)
    large = nn.functional.interpolate(coarse, size=shape[-2:], mode="bilinear").reshape(fine.shape)
    return large + 0.3 * fine


def two_images(side: int) -> tuple[Tensor, Tensor]:
    """Return pairs of images for optical flow, the second shifted."""
    first = images(3, side, side, count=3)
    return first, first.roll((2, -3), (-2, -1))


def settle(model: nn.Module, samples: Callable[[], Samples]) -> None:
    """Widen small weights, draw parameters that begin as constants, and give BatchNorm the samples' statistics."""
    for name, parameter in model.named_parameters():
        if name.endswith("weight") and parameter.dim() > 1:
            gain = parameter.std() * parameter[0].numel() ** 0.5
            if 0 < gain < LEAST_GAIN:
                parameter.mul_(GAIN / gain)
        if parameter.numel() < 2 or parameter.min() != parameter.max():
            continue
        if name.endswith("bias"):
            parameter.normal_(0, 0.1)
        elif parameter.dim() == 1:
            parameter.uniform_(0.5, 1)
        elif parameter.max() == 0:
            parameter.normal_(0, 0.02)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm) and m.track_running_stats]
    kept = [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.train()
        norm.momentum = None
    call(model, samples())
    for norm, momentum in zip(norms, kept, strict=True):
        norm.eval()
        norm.momentum = momentum


def row(name: str, build: Callable[[], nn.Module], samples: Callable[[], Samples]) -> Case:
    """Return a row of random weights."""
    return Case(name=name, build=build, samples=samples, enliven=partial(settle, samples=samples))


def torchvision_network(name: str, **arguments: Any) -> nn.Module:
    """Return a network of torchvision with random weights."""
    model: nn.Module = torchvision.models.get_model(name, weights=None, **arguments)
    return model


def ssdlite() -> nn.Module:
    """Return the raw heads of torchvision's SSDlite."""
    return SSDHeads(torchvision_network("ssdlite320_mobilenet_v3_large", weights_backbone=None))


def mvit() -> nn.Module:
    """Return a small MViT of version 2: torchvision's own take 16 frames of 224 pixels only."""
    kernel = {"kernel_q": [3, 3, 3], "kernel_kv": [3, 3, 3]}
    blocks = [
        MSBlockConfig(1, 96, 96, stride_q=[1, 1, 1], stride_kv=[1, 4, 4], **kernel),
        MSBlockConfig(2, 96, 192, stride_q=[1, 2, 2], stride_kv=[1, 2, 2], **kernel),
        MSBlockConfig(2, 192, 192, stride_q=[1, 1, 1], stride_kv=[1, 2, 2], **kernel),
    ]
    options = {"residual_pool": True, "residual_with_cls_embed": False, "rel_pos_embed": True, "proj_after_attn": True}
    return MViT((64, 64), 8, blocks, **options)


def timm_network(name: str, side: int | None) -> nn.Module:
    """Return a network of timm with random weights; None for its own side."""
    import timm

    model: nn.Module
    try:
        model = timm.create_model(name, **({} if side is None else {"img_size": side}))
    except TypeError:  # it takes images of any size
        model = timm.create_model(name)
    return model


@cache
def timm_side(name: str) -> int:
    """Return the first side of images that a network of timm can be made for and run on."""
    for side in SIDES:
        try:
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                timm_network(name, side).eval()(torch.zeros(1, 3, side, side))
        except Exception:  # whatever a network says of a size that it does not take  # noqa: S112
            continue
        return side
    with torch.random.fork_rng(devices=[]):
        own: int = timm_network(name, None).default_cfg["input_size"][-1]
    return own


def timm_row(name: str) -> Case:
    """Return the row of a network of timm."""
    return row(
        f"timm/{name}",
        lambda: timm_network(name, timm_side(name)),
        lambda: images(3, timm_side(name), timm_side(name)),
    )


def rows() -> dict[str, Case]:
    """Return every row by name."""
    found = [replace(case, name=f"small/{name}") for name, case in CASES.items()]
    for name, side in CLASSIFIERS.items():
        build = partial(torchvision_network, name, **ARGUMENTS.get(name, {}))
        found.append(row(f"torchvision/{name}", build, partial(images, 3, side, side)))
    for name in SEGMENTERS:
        build = partial(torchvision_network, name, weights_backbone=None)
        found.append(row(f"segmentation/{name}", build, partial(images, 3, 64, 64)))
    for name, side in DETECTORS.items():
        build = partial(lambda name: evoq.zoo.load(name).network, name)
        found.append(row(f"detection/{name}", build, partial(images, 3, side, side, count=3)))
    found.append(row("detection/ssdlite320", ssdlite, partial(images, 3, 320, 320, count=3)))
    for name, (frames, side) in VIDEO.items():
        build = partial(torchvision_network, name, **ARGUMENTS.get(name, {}))
        found.append(row(f"video/{name}", build, partial(images, 3, frames, side, side, count=3)))
    found.append(row("video/mvit", mvit, partial(images, 3, 8, 64, 64, count=3)))
    for name, side in FLOW.items():
        found.append(row(f"flow/{name}", partial(torchvision_network, name), partial(two_images, side)))
    found += [timm_row(name) for name in TIMM]
    return {case.name: case for case in found}


# --- One row, in a process of its own ---


@app.command(hidden=True)
def one(
    name: str,
    output: Path,
    *,
    stages: Annotated[str, typer.Option()],
    evaluations: Annotated[int, typer.Option()],
    threads: Annotated[int, typer.Option()],
) -> None:
    """Examine one row and write what is known of it after each stage."""
    torch.set_num_threads(threads)
    case = rows()[name]
    difference = "auto" if name.startswith("small/") else "nmse"
    options = Options(
        stages=tuple(stages.split(",")),
        difference=difference,
        threads=threads,
        calibration="light",
        evaluations=evaluations,
        refusal_seconds=60.0,
    )
    examine(case, options, progress=lambda report: keep(output, asdict(report) | {"peak_mib": peak_mib()}))


def peak_mib() -> int:
    """Return the process's peak memory so far (MiB)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10))


def keep(path: Path, data: Mapping[str, Any]) -> None:
    """Write JSON, whole or not at all."""
    write_atomically(path, (json.dumps(data, indent=1) + "\n").encode())


def examined(name: str, *, limit: float, options: list[str]) -> dict[str, Any]:
    """Return what is found of one row within a time limit (s)."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "row.json"
        command = [sys.executable, "-W", "ignore", __file__, "one", name, str(path), *options]
        begun = time.perf_counter()
        ended = ""
        try:
            done = subprocess.run(command, check=False, timeout=limit, capture_output=True, text=True)
            if done.returncode:
                ended = f"ended with code {done.returncode}: {' '.join(done.stderr.split()[-40:])}"
        except subprocess.TimeoutExpired:
            ended = f"not done after {limit:g} s"
        found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else asdict(Report(name, running="build"))
        if ended:
            found["problems"][found["running"] or "end"] = (ERROR, ended)
        return found | {"seconds": round(time.perf_counter() - begun, 1)}


# --- All rows ---


@contextmanager
def row_file(path: Path) -> Iterator[dict[str, Any]]:
    """Give the rows of a file, made with what they were measured on if it is new."""
    versions = {"torch": torch.__version__, "torchvision": torchvision.__version__, "timm": timm_version()}
    machine = {"processor": platform.processor() or platform.machine()} | versions
    yield json.loads(path.read_text()) if path.exists() else {"machine": machine, "rows": {}}


def timm_version() -> str | None:
    """Return timm's version; None where it is not installed."""
    try:
        import timm
    except ImportError:
        return None
    return str(timm.__version__)


@app.command()
def run(
    patterns: Annotated[list[str] | None, typer.Argument(help="Names of rows, with * and ?; all if none.")] = None,
    *,
    output: Annotated[Path, typer.Option("-o", "--output", help="JSON file of the rows.")] = Path("coverage.json"),
    limit: Annotated[float, typer.Option(help="Time limit of a row (s).")] = 900,
    evaluations: Annotated[int, typer.Option(help="Of the search.")] = 30,
    threads: Annotated[int, typer.Option(help="Micro-batches at once.")] = 1,
    stages: Annotated[str, typer.Option(help="What follows the set-up, with commas.")] = ",".join(STAGES),
) -> None:
    """Examine rows that the file does not have, and print the table."""
    with row_file(output) as data:
        chosen = [n for n in rows() if any(fnmatch(n, p) for p in patterns or ["*"]) and n not in data["rows"]]
        if timm_version() is None and any(name.startswith("timm/") for name in chosen):
            raise typer.BadParameter("networks of timm need: pip install 'evoq-moo[coverage]'")
        unknown = set(stages.split(",")) - set(STAGES)
        if unknown:
            raise typer.BadParameter(f"stages: given {sorted(unknown)}; allowed: {list(STAGES)}")
        options = ["--evaluations", str(evaluations), "--threads", str(threads), "--stages", stages]
        for i, name in enumerate(chosen):
            data["rows"][name] = found = examined(name, limit=limit, options=options)
            keep(output, data)
            console.print(f"{i + 1}/{len(chosen)} {name}: {verdict(found)}, {found['seconds']} s", highlight=False)
    show(output)


def verdict(found: Mapping[str, Any]) -> str:
    """Return what became of a row."""
    kinds = {stage: kind for stage, (kind, _) in found["problems"].items()}
    if not kinds:
        return "passed" if found["refused"] is None else "refused as expected"
    if WRONG in kinds.values():
        return "wrong silently"
    if set(kinds.values()) == {STATED}:
        return "passed, part in float"
    if kinds.get("setup") == REFUSED:
        return "refused at set-up"
    return "failed"


@app.command()
def show(output: Annotated[Path, typer.Argument(help="JSON file of the rows.")]) -> None:
    """Print the table and the summary."""
    data = json.loads(output.read_text())
    columns = ("row", "verdict", "output error", "MACs %", "engine", "engines apart", "file noise", "s", "MiB")
    table = Table(*columns, "failed")
    for name, found in data["rows"].items():
        figures = found["figures"]
        failed = ", ".join(f"{stage} ({kind})" for stage, (kind, _) in found["problems"].items())
        table.add_row(
            name,
            verdict(found),
            number(figures.get("output_error")),
            number(figures.get("quantized_share"), scale=100),
            figures.get("engine", ""),
            number(figures.get("engine_disagreement")),
            number(figures.get("file_noise")),
            str(found["seconds"]),
            str(found.get("peak_mib", "")),
            failed,
        )
    console.print(table)
    groups: dict[str, Counter[str]] = {}
    for name, found in data["rows"].items():
        groups.setdefault(name.split("/")[0], Counter())[verdict(found)] += 1
    summary = Table("group", "rows", *VERDICTS, title="summary")
    for group, counts in (groups | {"all": sum(groups.values(), Counter())}).items():
        summary.add_row(group, str(counts.total()), *(str(counts[v]) for v in VERDICTS))
    console.print(summary)


def number(value: float | None, *, scale: float = 1) -> str:
    """Return a figure with three digits; empty for none."""
    return "" if value is None else f"{scale * value:.3g}"


if __name__ == "__main__":
    app()
