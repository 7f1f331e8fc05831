"""Studies: complete, resumable, the same wherever they run; and what their results say."""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pymoo.algorithms.moo.nsga2 import NSGA2
from pymoo.problems.multi import ZDT5

import evoq_moo as evoq
from evoq_moo.analysis import hypervolume_curve
from evoq_moo.errors import ArgumentError, FormatError, MissingFileError, UnknownNameError
from evoq_moo.indicators import normalized_hypervolume
from evoq_moo.problems import MixedPrecisionProblem, get_problem
from evoq_moo.study import ALGORITHMS, NetworkProblem, Run, Study, named_algorithm
from evoq_moo.study import _study as study_module

sys.path.insert(0, str(Path(__file__).parent))
import helpers

DIGITS = evoq.Recipe(model="digits", count=4)


def same(a, b):
    """Return whether two studies' runs are the same, but for the time they took."""
    return len(a.runs) == len(b.runs) and all(
        x.key == y.key
        and np.array_equal(x.X, y.X)
        and np.array_equal(x.F, y.F)
        and x.paid == y.paid
        and np.array_equal(x.counts, y.counts)
        for x, y in zip(a.runs, b.runs, strict=True)
    )


def study(path, **changes):
    options = {
        "problems": ["digits-bops", "digits-bops-capped"],
        "algorithms": ["random", "nsga2"],
        "seeds": range(2),
        "budget": 100,
        "progress": False,
    }
    return Study(**{**options, "path": path, **changes})


def test_threads_run_on_shared_problems_and_leave_them_alone(tmp_path):
    """Runs patched the problem's `_evaluate` and `sensitivity`, and deleted them under other runs."""
    shared = get_problem("digits-bops")
    before = dict(vars(shared))
    options = {"problems": {"shared": shared}, "algorithms": ["random", "guided", "surrogate"], "budget": 130}
    serial = study(tmp_path / "serial", **options).run()
    with ThreadPoolExecutor(4) as executor:
        threads = study(tmp_path / "threads", executor=executor, **options).run()
    assert same(serial, threads)
    assert vars(shared) == before
    networks = [NetworkProblem(name=f"net{i}", recipe=evoq.Recipe(model="digits", count=4 + i)) for i in range(2)]
    options |= {"problems": networks, "algorithms": ["random"], "budget": 6}
    serial = study(tmp_path / "serial networks", **options).run()
    with ThreadPoolExecutor(4) as executor:
        threads = study(tmp_path / "thread networks", executor=executor, **options).run()
    assert same(serial, threads)


def test_every_run_is_on_disk_and_counted(tmp_path):
    results = study(tmp_path).run()
    assert len(results) == 8
    for run in results.runs:
        path = tmp_path / "runs" / run.key.problem / run.key.algorithm / f"seed_{run.key.seed}.npz"
        assert same_run(Run.load(path), run)
        assert len(run.F) == 100
        assert np.array_equal(get_problem(run.key.problem).evaluate(run.X, return_values_of=["F"]), run.F)


def same_run(a, b):
    return a.key == b.key and np.array_equal(a.X, b.X) and np.array_equal(a.F, b.F)


@pytest.mark.parametrize("name", list(ALGORITHMS))
def test_every_named_algorithm_is_seeded_counted_and_allowed(tmp_path, name):
    problems = ["digits-size-bops"] if name == "moead" else ["digits-size-bops", "digits-bops-capped"]
    options = {"problems": problems, "algorithms": [name], "budget": 150}
    first, again = (study(tmp_path / folder, **options).run() for folder in ("a", "b"))
    assert same(first, again)
    for run in first.runs:
        space = get_problem(run.key.problem).space
        space.check(run.X)
        assert 0 < len(run.X) <= 150 - run.paid
        expected = {"guided": 7 * 14, "additive_front": 7 * 14, "surrogate": 2 * 14}.get(name, 0)
        assert run.paid == expected
    if name != "additive_front":
        one, two = first.of("digits-size-bops", name)
        assert not np.array_equal(one.X, two.X)


def test_moead_on_a_problem_with_budgets_says_what_it_lacks(tmp_path):
    with pytest.raises(ArgumentError, match="moead takes no constraints"):
        study(tmp_path, problems=["digits-bops-capped"], algorithms=["moead"]).run()


def test_a_search_is_cut_at_its_budget(tmp_path):
    results = study(tmp_path, algorithms={"one": helpers.OneAfterAnother()}, budget=7).run()
    assert [len(run.X) for run in results.runs] == [7] * 4


def test_a_killed_study_goes_on_and_runs_nothing_twice(tmp_path, monkeypatch):
    whole = study(tmp_path / "whole").run()
    calls = []
    execute = study_module.execute_run

    def killed(*arguments):
        calls.append(arguments[0])
        if len(calls) == 4:
            raise KeyboardInterrupt
        return execute(*arguments)

    monkeypatch.setattr(study_module, "execute_run", killed)
    with pytest.raises(KeyboardInterrupt):
        study(tmp_path / "part").run()
    assert len(study(tmp_path / "part").results()) == 3
    results = study(tmp_path / "part").run()
    assert len(calls) == 4 + 5  # the killed one again, and four more
    assert len(set(calls)) == 8
    assert same(whole, results)
    study(tmp_path / "part").run()
    assert len(calls) == 9


def test_seeds_problems_and_algorithms_can_be_added(tmp_path):
    study(tmp_path, seeds=[0]).run()
    grown = study(tmp_path, seeds=range(3), algorithms=["random", "nsga2", "spea2"])
    assert len(grown.missing()) == 2 * 3 * 3 - 4
    assert len(grown.run()) == 18


def test_a_folder_belongs_to_a_budget_and_a_name_to_an_algorithm(tmp_path):
    study(tmp_path, algorithms={"mine": "random"}).run()
    with pytest.raises(ArgumentError, match="budget: given 200; the study in"):
        study(tmp_path, budget=200)
    with pytest.raises(ArgumentError, match="under|give it another name"):
        study(tmp_path, algorithms={"mine": helpers.small_nsga2}).run()


def test_a_damaged_run_is_named(tmp_path):
    made = study(tmp_path)
    made.run()
    file = made.file_of(next(iter(made.keys())))
    file.write_bytes(file.read_bytes()[:-50])
    with pytest.raises(FormatError, match="seed_0.npz.*remove it"):
        made.run()
    file.unlink()
    assert len(made.run()) == 8
    with pytest.raises(MissingFileError):
        Run.load(tmp_path / "nothing.npz")


def test_a_pool_of_processes_gives_the_same_even_when_processes_die(tmp_path):
    """One test for both, as each process takes seconds to import torch."""
    marks = tmp_path / "marks"
    marks.mkdir()
    search = helpers.SlowRandom(str(marks), deaths=2)
    algorithms = {"r": search, "n": helpers.small_nsga2, "s": "surrogate"}
    options = {"problems": ["digits-bops"], "algorithms": algorithms, "seeds": range(2)}
    pooled = study(tmp_path / "pool", executor=2, **options).run()
    assert len(list(marks.iterdir())) > 2  # some died
    assert same(study(tmp_path / "serial", **options).run(), pooled)


def test_any_executor_serves(tmp_path):
    with ThreadPoolExecutor(1) as executor:
        threaded = study(tmp_path / "threads", executor=executor).run()
    assert same(threaded, study(tmp_path / "serial").run())


def test_what_cannot_be_sent_is_named_before_anything_runs(tmp_path):
    with ThreadPoolExecutor(1) as executor, pytest.raises(ArgumentError, match=r"algorithms\['mine'\]: can't be sent"):
        study(tmp_path, algorithms={"mine": lambda problem: NSGA2()}, executor=executor).run()


def test_real_networks_share_one_store_and_pay_for_the_scan(tmp_path):
    problem = NetworkProblem(name="tiny", recipe=DIGITS, reference=get_problem("digits-bops").reference)
    options = {"problems": [problem], "algorithms": ["random", "guided"], "budget": 110, "seeds": [0]}
    results = study(tmp_path, **options).run()
    random, guided = results.runs
    assert (random.paid, guided.paid) == (0, 98)
    network = DIGITS(threads=1)
    found = [network.evaluate(network.space.policy(x)) for x in guided.X]
    assert guided.F.tolist() == [[f.difference, f.gbops] for f in found]
    with evoq.EvaluationStore(tmp_path / "evaluations.sqlite", shared=True) as store:
        scan = 98
        different = len(np.unique(np.concatenate([random.X, guided.X]), axis=0))
        assert store.count() == scan + different
    assert results.references["tiny"] is problem.reference
    free = study(tmp_path / "free", **{**options, "charge_scan": False, "algorithms": ["guided"]}).run()
    assert (free.runs[0].paid, len(free.runs[0].X)) == (0, 110)


def test_our_default_search_pays_for_a_sparse_scan(tmp_path):
    recipe = evoq.Recipe(model="digits", count=20)
    problem = NetworkProblem(name="tiny", recipe=recipe, reference=get_problem("digits-bops").reference)
    options = {"problems": [problem], "algorithms": ["surrogate", "guided"], "budget": 130, "seeds": [0]}
    results = study(tmp_path, **options).run()
    ours, guided = results.runs
    assert (ours.paid, guided.paid) == (28, 98)
    network = recipe(threads=1)
    real = MixedPrecisionProblem(network)
    table = evoq.measure_sensitivity(network, method="sparse", progress=False)
    alone = evoq.run_search(real, evoq.SurrogateSearch(table), evaluations=130 - 28, seed=0, progress=False)
    assert np.array_equal(ours.X, alone.vectors)
    assert ours.counts.tolist() == list(range(29, 131))
    archive = ours.archive
    assert np.array_equal(archive[ours.counts - 1], ours.F)
    assert np.isinf(np.delete(archive, ours.counts - 1, axis=0)).all()
    table = results.table()
    last = table[(table["algorithm"] == "surrogate") & (table["evaluations"] == 130)]
    assert last["policies"].item() == len(np.unique(ours.X, axis=0))
    loaded = Run.load(tmp_path / "runs" / "tiny" / "surrogate" / "seed_0.npz")
    assert np.array_equal(loaded.counts, ours.counts)
    again = study(tmp_path / "again", **options | {"algorithms": ["guided", "surrogate"]}).run()
    assert all(np.array_equal(again.of("tiny", run.key.algorithm)[0].archive, run.archive) for run in results.runs)


def test_a_run_without_what_was_spent_in_between_is_read(tmp_path):
    run = study(tmp_path, algorithms=["guided"], budget=120, seeds=[0], problems=["digits-bops"]).run().runs[0]
    file = tmp_path / "runs" / "digits-bops" / "guided" / "seed_0.npz"
    with np.load(file) as arrays:
        old = {name: arrays[name] for name in arrays.files if name != "between"}
    np.savez_compressed(file, **old)
    assert Run.load(file).counts.tolist() == run.counts.tolist() == list(range(99, 121))


def test_the_default_search_gets_a_table_of_its_own(tmp_path):
    """A sparse one, and what runs on the same problem after it gets the problem's own again."""
    problem = get_problem("digits-bops")
    full = problem.sensitivity
    options = {"problems": [problem], "budget": 120, "seeds": [0]}
    first = study(tmp_path / "a", **options, algorithms=["surrogate", "guided"]).run()
    assert problem.sensitivity is full
    alone = study(tmp_path / "b", **options, algorithms=["guided"]).run()
    assert np.array_equal(first.runs[1].X, alone.runs[0].X)


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (NetworkProblem(name="p", recipe=DIGITS, objectives=("difference",), budgets={"bops": 1.0}), "on p, whose"),
        (NetworkProblem(name="p", recipe=DIGITS, objectives=("size", "bops")), "allowed: 'difference' with"),
        (ZDT5(), "surrogate can't run on p"),
    ],
)
def test_a_problem_that_is_none_for_the_default_search_is_named_before_any_run(tmp_path, problem, message):
    with pytest.raises(ArgumentError, match=message):
        study(tmp_path / "study", problems={"p": problem}, algorithms=["random", "surrogate"])
    assert not (tmp_path / "study").exists()


def test_a_problem_without_a_table_is_named_before_any_run(tmp_path):
    with pytest.raises(ArgumentError, match="ZDT5 has no SensitivityTable"):
        study(tmp_path / "study", problems={"p": ZDT5()}, algorithms=["guided"])
    assert not (tmp_path / "study").exists()


def test_a_worker_without_the_folder_sends_its_evaluations_back(tmp_path, monkeypatch):
    """As on another machine: what it computed ends up in the study's store all the same."""
    made = study(tmp_path, problems=[NetworkProblem(name="tiny", recipe=DIGITS)], algorithms=["random"], budget=5)
    arguments = made._arguments
    monkeypatch.setattr(made, "_arguments", lambda key: (*arguments(key)[:3], str(tmp_path / "elsewhere" / "x.sqlite")))
    made.run()
    with evoq.EvaluationStore(tmp_path / "evaluations.sqlite", shared=True) as store:
        assert store.count() == 10


def test_a_budget_that_the_scan_alone_takes_is_refused(tmp_path):
    with pytest.raises(ArgumentError, match="guided on digits-bops spends 98"):
        study(tmp_path, algorithms=["guided"], budget=98).run()


def test_other_problems_and_algorithms_of_pymoo_run_too(tmp_path):
    """Also without names, search space or frozen reference."""
    results = study(tmp_path, problems={"zdt5": ZDT5}, algorithms={"mine": plain_nsga2}, budget=200).run()
    reference = results.references["zdt5"]
    assert reference.provenance == "this study's own runs"
    assert results.final()["hypervolume"].between(0.05, 1).all()


def plain_nsga2(problem):
    from pymoo.operators.crossover.ux import UniformCrossover
    from pymoo.operators.mutation.bitflip import BitflipMutation
    from pymoo.operators.sampling.rnd import BinaryRandomSampling

    return NSGA2(pop_size=20, sampling=BinaryRandomSampling(), crossover=UniformCrossover(), mutation=BitflipMutation())


def test_the_table_states_indicators_of_every_prefix(tmp_path):
    results = study(tmp_path, seeds=range(3)).run()
    table = results.table()
    assert len(table) == 2 * 2 * 3 * 11
    assert set(table.columns) >= {"problem", "algorithm", "seed", "evaluations", "hypervolume", "igd_plus"}
    for row in table[table["seed"] == 1].itertuples():
        run = next(r for r in results.of(row.problem, row.algorithm) if r.key.seed == 1)
        reference = results.references[row.problem]
        scaled = reference.scaled(run.archive[: row.evaluations])
        assert row.hypervolume == pytest.approx(normalized_hypervolume(scaled, ideal=[0, 0], reference=[1, 1]))
        assert row.policies == len(np.unique(run.X[: row.evaluations], axis=0))
    files = results.save()
    assert [file.name for file in files] == ["table.csv", "table.parquet"]
    for read, file in zip((pd.read_csv, pd.read_parquet), files, strict=True):
        pd.testing.assert_frame_equal(read(file), table, check_dtype=False)
    curve = results.curves("digits-bops", "random")[1]
    expected = hypervolume_curve(results.archives("digits-bops", "random")[1], ideal=[0, 0], reference=[1, 1])
    assert np.array_equal(curve, expected)


def test_infeasible_policies_do_not_count(tmp_path):
    results = study(tmp_path, problems=["digits-bops-capped"], algorithms=["random"]).run()
    run = results.runs[0]
    infeasible = (run.G > 0).any(axis=1)
    assert infeasible.any()
    assert np.isinf(run.archive[infeasible]).all()
    assert np.isfinite(run.archive[~infeasible]).all()


def test_results_compare_algorithms(tmp_path):
    results = study(
        tmp_path,
        problems=["digits-bops", "digits-size"],
        algorithms=["random", "nsga2", "additive_front"],
        seeds=range(6),
        budget=140,
    ).run()
    (against,) = [r for r in results.compare("digits-bops", against="additive_front") if r.second == "random"]
    assert against.a12 == 1
    assert against.p_value == pytest.approx(2 / 2**6)
    ranking = results.friedman()
    assert ranking.names == results.algorithms
    assert ranking.average_ranks.argmin() == 2
    summary = results.summary()
    assert len(summary) == 6
    assert summary.groupby("problem")["rank"].apply(sorted).tolist() == [[1, 2, 3]] * 2
    assert ((summary["low"] <= summary["median"]) & (summary["median"] <= summary["high"])).all()
    with pytest.raises(UnknownNameError, match="indicator"):
        results.values("digits-bops", "speed")
    with pytest.raises(UnknownNameError, match="problem"):
        results.archives("digits", "random")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": []}, "problems: given"),
        ({"problems": "digits-bops"}, "problems: given one str"),
        ({"problems": ["digits-bobs"]}, "did you mean 'digits-bops'"),
        ({"problems": {"a": 3}}, r"problems\['a'\]: given int"),
        ({"problems": [ZDT5()]}, "has no name"),
        ({"problems": ["digits-bops", "digits-bops"]}, "of different names"),
        ({"algorithms": []}, "algorithms: given"),
        ({"algorithms": "nsga2"}, "algorithms: given"),
        ({"algorithms": ["nsga22"]}, "did you mean 'nsga2'"),
        ({"algorithms": {"a": NSGA2()}}, "which one run uses up"),
        ({"algorithms": {"a": 3}}, r"algorithms\['a'\]: given int"),
        ({"algorithms": {"a/b": "nsga2"}}, "names that can be a folder's"),
        ({"seeds": []}, "seeds: given none"),
        ({"seeds": [-1]}, "seeds: given -1"),
        ({"budget": 0}, "budget: given 0"),
        ({"executor": 0}, "executor: given 0"),
        ({"executor": "pool"}, "executor: given str"),
    ],
)
def test_bad_arguments_are_named_before_anything_is_made(tmp_path, changes, message):
    with pytest.raises(ArgumentError, match=message):
        study(tmp_path / "study", **changes)
    assert not (tmp_path / "study").exists()


def test_a_function_that_makes_no_algorithm_is_named(tmp_path):
    with pytest.raises(ArgumentError, match="made int"):
        study(tmp_path, algorithms={"mine": lambda problem: 3}).run()
    with pytest.raises(ArgumentError, match="pop_size"):
        named_algorithm("nsga2", pop_size=2)
