"""A search in a child process that is killed at random moments and resumed; prints what it ends with as JSON.

Run as `python killed_search.py STORE KILLS SEED`. Each attempt runs in a fork of this process, which itself never
computes with torch, so that forking is safe.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import evoq_moo as evoq
from evoq_moo.problems import MixedPrecisionProblem
from evoq_moo.zoo._cifar import CifarBlock


def search(store: Path, output: Path) -> None:
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(1)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), CifarBlock(4, 8, 2), torch.nn.Flatten(), torch.nn.Linear(72, 6)
    )
    for tensor in model.parameters():
        tensor.data.normal_(0, 0.4, generator=generator)
    samples = torch.randn(10, 3, 8, 8, generator=generator)
    network = evoq.QuantizedNetwork(model, samples, threads=1, progress=False)
    problem = MixedPrecisionProblem(network, store=store)
    table = evoq.measure_sensitivity(network, evaluator=problem.evaluator, progress=False)
    run = evoq.run_search(problem, evoq.guided_nsga2(table, pop_size=20), evaluations=400, seed=3, progress=False)
    result = {
        "front": [[p.difference, p.gbops, *p.policy.weight_bits, *p.policy.activation_bits] for p in run.front],
        "trace": [[r.evaluations, r.policies, r.front, r.hypervolume] for r in run.trace],
        "vectors": run.vectors.tolist(),
        "stored": problem.evaluator.store.count(),
    }
    output.write_text(json.dumps(result))


def main() -> None:
    store, kills, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    output = store.with_suffix(".json")
    rng = random.Random(seed)
    unfinished = 0
    for attempt in range(kills + 1):
        child = os.fork()
        if child == 0:
            search(store, output)
            os._exit(0)
        if attempt < kills:
            time.sleep(rng.uniform(0.05, 1.0))
            unfinished += not output.exists()
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        elif os.waitpid(child, 0)[1] != 0:
            sys.exit("the last attempt failed")
    print(json.dumps({"unfinished": unfinished, **json.loads(output.read_text())}))


if __name__ == "__main__":
    main()
