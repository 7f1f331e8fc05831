"""The live page: this machine's alone, one page, and it says what is wrong instead of ending."""

import http.client
import json
import threading

import pytest

from evoq_moo.errors import ArgumentError, FileError, MissingFileError
from evoq_moo.report import ReportServer, _serve


@pytest.fixture
def folder(tmp_path):
    recipe = {"model": "<i>", "count": 50, "samples_seed": 3, "pinned": "ends"}
    settings = {"recipe": recipe, "objectives": ["difference", "bops"], "budgets": {}, "pop_size": 40, "seed": 7}
    data = {"format": "evoq-moo/run", "version": 1, "settings": settings}
    (tmp_path / "run.json").write_text(json.dumps(data))
    return tmp_path


@pytest.fixture
def serving(folder):
    server = ReportServer(folder)
    thread = threading.Thread(target=server.serve)
    thread.start()
    yield server
    server.close()
    thread.join()


def ask(server, path="/", host=None, method="GET"):
    place = server.url.removeprefix("http://").rstrip("/")
    connection = http.client.HTTPConnection(place, timeout=30)
    connection.request(method, path, headers={"Host": host or place})
    answer = connection.getresponse()
    text = answer.read().decode()
    connection.close()
    return answer.status, text


def test_serves_the_report_and_nothing_else(serving):
    status, page = ask(serving)
    assert status == 200
    assert '<meta http-equiv="refresh" content="10">' in page
    assert "sensitivity scan is not complete" in page
    assert "<i>" not in page
    assert ask(serving, "/run.json")[0] == ask(serving, "/../run.json")[0] == 404
    assert ask(serving, method="POST")[0] == 501


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example:80"])
def test_another_host_is_refused(serving, host):
    """A name of a stranger's that points to 127.0.0.1 (DNS rebinding)."""
    assert ask(serving, host=host)[0] == 403


def test_listens_on_loopback_only(serving):
    assert serving.url.startswith("http://127.0.0.1:")


def test_follows_the_run_and_says_what_is_wrong(serving, folder, monkeypatch):
    assert ask(serving)[0] == 200
    (folder / "run.json").write_text("{")
    assert "not complete" in ask(serving)[1]  # made a moment ago
    monkeypatch.setattr(_serve, "REFRESH", 0)
    status, page = ask(serving)
    assert (status, "run.json" in page) == (200, True)


def test_what_is_wrong_at_first_is_an_error(folder, serving):
    with pytest.raises(MissingFileError):
        ReportServer(folder / "nowhere")
    with pytest.raises(ArgumentError, match="port: given 70000"):
        ReportServer(folder, port=70000)
    with pytest.raises(FileError, match="port: given .*, which can't be used: Address already in use"):
        ReportServer(folder, port=int(serving.url.rstrip("/").rpartition(":")[2]))
