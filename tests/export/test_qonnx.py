import numpy as np
import pytest

from evoq_moo.export import export_qonnx


@pytest.mark.filterwarnings("ignore")  # qonnx's own
def test_qonnx_computes_the_same(branches, branches_template, policies_of, tmp_path):
    pytest.importorskip("qonnx")
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.core.onnx_exec import execute_onnx
    from qonnx.transformation.infer_shapes import InferShapes

    network = branches.apply(policies_of(branches, 1, seed=9)[0])
    size = export_qonnx(network, tmp_path / "m.onnx", template=branches_template)
    assert size == (tmp_path / "m.onnx").stat().st_size
    x = branches.samples[:1]
    model = ModelWrapper(str(tmp_path / "m.onnx"), fix_missing_initializer_valueinfo=True).transform(InferShapes())
    found = execute_onnx(model, {"input": x.numpy()})
    for name, expected in network(x).items():
        close = np.isclose(found[name], expected.numpy(), rtol=1e-3, atol=1e-3 * float(np.ptp(expected.numpy())))
        assert close.mean() > 0.9
