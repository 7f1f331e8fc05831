import numpy as np
import pytest

from evoq_moo.costs import BitOperations, Size, cost_matrix, overhead_bytes, policy_cost
from evoq_moo.space import LayerInfo


@pytest.fixture(scope="module")
def resnet18():
    """ResNet18's quantizable layers, from a forward pass at 224."""
    torch = pytest.importorskip("torch")
    models = pytest.importorskip("torchvision.models")
    network = models.resnet18(weights=None).eval()
    layers = []

    def record(name):
        def hook(module, inputs, output):
            weights = module.weight
            # one output element takes as many MACs as it has weights; every spatial position is an element of a channel
            positions = output[0, 0].numel() if output.dim() == 4 else 1
            layers.append(
                LayerInfo(
                    name=name,
                    kind=type(module).__name__,
                    params=weights.numel(),
                    macs=weights.numel() * positions,
                    bias_params=0 if module.bias is None else module.bias.numel(),
                    output_channels=weights.shape[0],
                )
            )

        return hook

    for name, module in network.named_modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(record(name))
    with torch.no_grad():
        network(torch.zeros(1, 3, 224, 224))
    return layers


def uniform(layers, bits, ends=None):
    array = np.full((len(layers), 2), bits, dtype=np.int64)
    if ends is not None:
        array[[0, -1]] = ends
    return array


def test_resnet18_layers(resnet18):
    assert len(resnet18) == 21
    assert (resnet18[0].name, resnet18[-1].name) == ("conv1", "fc")
    assert sum(layer.params for layer in resnet18) == 11_678_912
    assert sum(layer.macs for layer in resnet18) == 1_814_073_344


def test_hawq_v3_float32(resnet18):
    operations = BitOperations().count(resnet18, uniform(resnet18, 32))
    assert operations == 1_857_611_104_256
    assert round(BitOperations().of(resnet18, uniform(resnet18, 32)).item()) == 1858


def test_hawq_v3_w8a8(resnet18):
    bits = uniform(resnet18, 8)
    assert BitOperations().count(resnet18, bits) == 116_100_694_016
    assert Size().count(resnet18, bits) == 93_431_296
    assert round(BitOperations().of(resnet18, bits).item()) == 116
    assert f"{Size().of(resnet18, bits):.1f}" == "11.1"


def test_hawq_v3_w4a4_with_first_and_last_at_8(resnet18):
    """HAWQ-V3 prints 34 GBOPs for 34.71: its own row is a truncation, where the other rows are rounded."""
    bits = uniform(resnet18, 4, ends=8)
    assert BitOperations().count(resnet18, bits) == 34_714_419_200
    assert Size().count(resnet18, bits) == 48_801_280
    assert f"{BitOperations().of(resnet18, bits):.2f}" == "34.71"
    assert int(BitOperations().of(resnet18, bits)) == 34
    assert f"{Size().of(resnet18, bits):.1f}" == "5.8"


def test_overhead(resnet18):
    channels = sum(layer.output_channels for layer in resnet18)
    quantized = policy_cost(resnet18, uniform(resnet18, 8))
    assert quantized.overhead_mib * 2**20 == 4 * 1000 + 4 * channels + 5 * len(resnet18)
    unquantized = policy_cost(resnet18, uniform(resnet18, 32))
    assert unquantized.overhead_mib * 2**20 == 4 * 1000  # the last layer's biases
    assert unquantized.size_mib == 4 * quantized.size_mib
    bits = uniform(resnet18, 32)
    assert overhead_bytes(resnet18, bits, float_params=100) == overhead_bytes(resnet18, bits) + 100


LAYERS = [
    LayerInfo(name="a", kind="Conv2d", params=1000, macs=20_000),
    LayerInfo(name="b", kind="Conv2d", params=300, macs=70_000),
    LayerInfo(name="c", kind="Linear", params=50, macs=50),
]


def test_by_hand():
    bits = np.array([[[4, 8], [2, 3], [8, 8]], [[32, 32], [8, 8], [16, 2]]])
    assert Size().count(LAYERS, bits).tolist() == [4000 + 600 + 400, 32_000 + 2400 + 800]
    assert BitOperations().count(LAYERS, bits).tolist() == [640_000 + 420_000 + 3200, 20_480_000 + 4_480_000 + 1600]
    assert cost_matrix(LAYERS, bits).shape == (2, 2)
    assert cost_matrix(LAYERS, bits)[1].tolist() == [35_200 / 8 / 2**20, 24_961_600 / 1e9]
    assert policy_cost(LAYERS, bits[1]).gbops == 24_961_600 / 1e9


def test_no_overflow_on_large_networks():
    layers = [LayerInfo(name=str(i), kind="Linear", params=10**9, macs=10**12) for i in range(1000)]
    assert BitOperations().count(layers, uniform(layers, 32)) == 1000 * 10**12 * 1024
    assert Size().count(layers, uniform(layers, 32)) == 1000 * 10**9 * 32
