"""The report of a running search as a page that follows it, for this machine's own browsers only."""

import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from evoq_moo.errors import EvoqError, FileError, check_count
from evoq_moo.files import reason_of
from evoq_moo.report._render import error_page, render_report
from evoq_moo.report._run_data import read_run

LOOPBACK = "127.0.0.1"
REFRESH = 10
"""Seconds after which the page asks again; our choice. It is made anew no more often."""


class ReportServer:
    """Serves one run's report to this machine alone; nothing but the page is served, and nothing is written.

    Requests that name another host are refused, so that a page from elsewhere can't read it by a name that it lets
    point here.

    Args:
        run: Folder of a run, in progress or not, or a front file.
        port: Port; 0 for any that is free.
        pick: The policy to show first.
        trust: As for :func:`read_run`.

    Attributes:
        url: Where the page is.

    Raises:
        ArgumentError: `port` is none.
        FileError: The port can't be used.
        EvoqError: As :func:`read_run`.
    """

    def __init__(self, run: str | Path, *, port: int = 0, pick: str = "knee", trust: bool = False) -> None:
        check_count("port", port, lowest=0, highest=65535)
        self._run, self._pick, self._trust = Path(run), pick, trust
        self._lock = threading.Lock()
        self._page, self._made = b"", -float("inf")
        read_run(run, trust=trust)  # what is wrong with it is said now, not in a browser
        try:
            self._server = ThreadingHTTPServer((LOOPBACK, port), _handler(self.page))
        except OSError as error:
            raise FileError(f"port: given {port}, which can't be used: {reason_of(error)}") from error
        self.url = f"http://{LOOPBACK}:{self._server.server_port}/"

    def page(self) -> bytes:
        """Return the page as HTML; of a run whose files can't be read just now, what is wrong with them."""
        with self._lock:
            if time.monotonic() - self._made >= REFRESH:
                try:
                    html = render_report(read_run(self._run, trust=self._trust), pick=self._pick, refresh=REFRESH)
                except EvoqError as error:
                    html = error_page(self._run.name, str(error), refresh=REFRESH)
                self._page, self._made = html.encode(), time.monotonic()
            return self._page

    def serve(self) -> None:
        """Serve until :meth:`close` or Ctrl-C."""
        try:
            self._server.serve_forever()
        finally:
            self._server.server_close()

    def close(self) -> None:
        """End :meth:`serve`, which runs in another thread."""
        self._server.shutdown()


def _handler(page: Callable[[], bytes]) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            host = self.headers.get("Host", "").rpartition(":")[0]
            if host not in {LOOPBACK, "localhost"}:
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path != "/":
                self.send_error(HTTPStatus.NOT_FOUND)
            else:
                content = page()
                self.send_response(HTTPStatus.OK)
                self.send_header("Content-Type", "text/html; charset=utf-8")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Cache-Control", "no-store")
                self.send_header("X-Content-Type-Options", "nosniff")
                self.end_headers()
                self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            """Keep the terminal quiet."""

    return Handler
