"""`StudyResults.save_plots`: which pictures there are, and for what studies."""

import pytest

from evoq_moo.errors import UnknownNameError
from evoq_moo.study import Study

PNG = b"\x89PNG\r\n"


def results_of(path, problems, algorithms):
    options = {"seeds": range(2), "budget": 60, "progress": False}
    return Study(problems=problems, algorithms=algorithms, path=path, **options).run()


def test_one_algorithm_has_nothing_to_differ_from(tmp_path):
    files = results_of(tmp_path, ["digits-bops"], ["random"]).save_plots()
    assert [file.name for file in files] == [f"digits-bops-{k}.png" for k in ("hypervolume", "ecdf", "attainment")]
    assert all(file.parent == tmp_path / "plots" and file.read_bytes().startswith(PNG) for file in files)


def test_three_objectives_have_no_attainment_picture(tmp_path):
    files = results_of(tmp_path, ["digits-size-bops"], ["random", "nsga2"]).save_plots(tmp_path / "elsewhere")
    assert [file.name for file in files] == [f"digits-size-bops-{k}.png" for k in ("hypervolume", "ecdf")]
    assert all(file.parent == tmp_path / "elsewhere" for file in files)


def test_an_unknown_indicator_is_refused_before_anything_is_drawn(tmp_path):
    results = results_of(tmp_path, ["digits-bops"], ["random"])
    with pytest.raises(UnknownNameError, match="indicator"):
        results.save_plots(indicator="speed")
    assert not (tmp_path / "plots").exists()
