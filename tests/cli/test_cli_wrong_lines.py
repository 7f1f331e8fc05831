"""Twenty wrong command lines and what each says: one sentence, at once, and nothing is written."""

import re

import pytest

from evoq_moo.cli import main

USAGE = 2

WRONG = [
    ("search", 1, "model: give a name (*) or --model package.module:factory"),
    ("search digit -o run", 1, "name: unknown name 'digit'; did you mean 'digits'?"),
    (
        "search mobilenet_v2 -o run",
        1,
        "weights: given none, and mobilenet_v2 comes without; give weights: *--download*",
    ),
    ("search digits --weights no.pth -o run", 1, "weights: no such file: no.pth"),
    ("search digits --weights IMAGENET1K_V1 -o run", 1, "weights: *digits*"),
    ("search digits --samples nowhere/ -o run", 1, "images: no such file or folder: nowhere"),
    ("search digits --weight-bits 2-9 -o run", 1, r"weight-bits: given [9]; allowed: *"),
    ("search digits --evaluations 0 -o run", 1, "evaluations: given 0; allowed: an integer of at least 1"),
    ("search digits --pop-size 1 -o run", 1, "pop_size: given 1; allowed: an integer of at least 2"),
    ("search digits --budget bops<5 -o run", 1, "budget: given 'bops<5'; allowed: like 'bops<=5', *"),
    ("search digits --objectives difference,bop -o run", 1, "objectives: unknown name 'bop'; did you mean 'bops'?"),
    ("search digits --engine fast -o run", 1, "engine: unknown name 'fast'; did you mean 'auto'?"),
    ("search digits --images nowhere/ -o run", 1, "images: no such file or folder: nowhere"),
    ("search digits --latency no.csv -o run", 1, "no such file: no.csv"),
    ("search digits --evaluation 5", USAGE, "No such option: --evaluation"),
    ("show nowhere", 1, "no such file: nowhere"),
    ("evaluate nowhere --all", 1, "no such file: nowhere"),
    ("ship nowhere -o model.onnx", 1, "no such file: nowhere"),
    ("calibrate nowhere", 1, "no such file: nowhere"),
    ("verify model.onnx --against nowhere --images val/", 1, "no such file: nowhere/calibrated.json *"),
    ("report nowhere", 1, "no such file or folder: nowhere"),
    ("compare study.toml", 1, "no such file: study.toml"),
    ("serch digits", USAGE, "No such command 'serch'"),
]


@pytest.mark.parametrize(("line", "code", "said"), WRONG, ids=[line for line, *_ in WRONG])
def test_says(line, code, said, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr("sys.argv", ["evoq", *line.split()])
    with pytest.raises(SystemExit) as ended:
        main()
    out, err = capsys.readouterr()
    assert (ended.value.code, out) == (code, "")
    if code == USAGE:
        assert said in err
    else:
        pattern = "error: " + ".*".join(map(re.escape, said.split("*")))
        assert re.fullmatch(pattern, err.strip()), err
        assert "\n" not in err.strip()
    assert list(tmp_path.iterdir()) == []
