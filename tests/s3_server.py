"""An S3-compatible server (moto's) on 127.0.0.1, as a process of its own: `s3_server.py FOLDER` prints its port.

Files in FOLDER tell it what to do: while `fail` is there every request is answered with 503; while `slow` is there
what is uploaded is read in pieces with a rest after each. `log` gets a line for every request that changes something,
as soon as it comes in.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

PIECE, REST = 2**16, 0.005


class Slowly:
    """A body that comes in slowly."""

    def __init__(self, body: Any) -> None:
        self._body = body

    def read(self, size: int = -1) -> bytes:
        """At most a PIECE."""
        time.sleep(REST)
        return bytes(self._body.read(PIECE if size < 0 else min(size, PIECE)))

    def readline(self, size: int = -1) -> bytes:
        """A line, at once."""
        return bytes(self._body.readline(size))


class Quiet(WSGIRequestHandler):
    """Logs nothing."""

    def log(self, *_: object) -> None:
        """Nothing."""


def main(folder: Path) -> None:
    """Serves until it is killed."""
    storage = DomainDispatcherApplication(create_backend_app)

    def answer(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if (folder / "fail").exists():
            environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            start_response("503 Service Unavailable", [("Content-Length", "0")])
            return []
        if method not in ("GET", "HEAD"):
            with (folder / "log").open("a") as log:
                print(method, environ["PATH_INFO"], file=log)
        if (folder / "slow").exists():
            environ["wsgi.input"] = Slowly(environ["wsgi.input"])
        return storage(environ, start_response)  # type: ignore[no-any-return]

    server = make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    print(server.port, flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
