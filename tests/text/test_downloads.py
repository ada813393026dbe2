"""A download ends in time and says why it failed."""

import http.server
import threading
import time
from collections.abc import Iterator

import pytest

from kqv.text.downloads import download

TEXT = b"Is the kettle on?"
SLOW_BYTES = 100  # ten a second


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves TEXT at /text, half of it at /half, and ten bytes a second at /slow."""

    def do_GET(self) -> None:
        if self.path not in ("/text", "/half", "/slow"):
            self.send_error(404)
            return
        self.send_response(200)
        length = SLOW_BYTES if self.path == "/slow" else len(TEXT)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.path == "/slow":
            for _ in range(SLOW_BYTES):
                time.sleep(0.1)
                self.wfile.write(b".")
        else:
            self.wfile.write(TEXT if self.path == "/text" else TEXT[:5])

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Where a server on this machine answers."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_a_file_is_downloaded_whole(address: str) -> None:
    assert download(f"{address}/text") == TEXT


def test_a_missing_file_is_an_os_error_that_says_so(address: str) -> None:
    with pytest.raises(OSError, match="Not Found"):
        download(f"{address}/nothing")


def test_a_server_that_drips_is_left_after_the_seconds(address: str) -> None:
    started = time.monotonic()
    with pytest.raises(OSError, match=r"not complete within 0\.5 seconds"):
        download(f"{address}/slow", seconds=0.5)
    assert time.monotonic() - started < 5


def test_half_a_file_is_an_os_error(address: str) -> None:
    with pytest.raises(OSError, match="12 more expected"):
        download(f"{address}/half")
