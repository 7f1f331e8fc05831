"""Peak memory of set-up and evaluation, in processes of their own."""

import subprocess
import sys

import pytest

FLOAT = """
import torch, torchvision
with torch.no_grad():
    torchvision.models.resnet50(weights=None).eval()(torch.randn(20, 3, 224, 224))
"""
QUANTIZED = """
import torch, torchvision, evoq_moo as evoq
network = evoq.QuantizedNetwork(torchvision.models.resnet50(weights=None), torch.randn(20, 3, 224, 224))
network.evaluate(network.uniform(4))
"""
PEAK = "\nimport resource\nprint(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"


def peak_gib(script):
    done = subprocess.run([sys.executable, "-c", script + PEAK], capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) / 2**20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ru_maxrss is in KiB on Linux only")
def test_resnet50_stays_within_the_float_forward_plus_1_5_gib():
    exact, quantized = peak_gib(FLOAT), peak_gib(QUANTIZED)
    print(f"peak: float forward {exact:.2f} GiB, set-up and evaluation {quantized:.2f} GiB")
    assert quantized <= exact + 1.5
