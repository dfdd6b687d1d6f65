"""A Milvus server on this machine, which tests may kill and start again: the one in PyPI's package ``milvus``."""

from __future__ import annotations

import gc
import socket
import time
import warnings
from pathlib import Path
from typing import Any

import pytest


class Server:
    """A server with its data in a folder, the only one on its machine; it takes ten seconds to start, and 300 MB of memory."""

    def __init__(self, folder: Path) -> None:
        self._package: Any = pytest.importorskip(
            "milvus", reason="needs a Milvus server: pip install milvus==2.3.5, in an environment of its own"
        )
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self._options = {"data_dir": str(folder), "proxy_port": port}
        self.uri = f"http://127.0.0.1:{port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it says that it is well; its port stays taken for a minute after a kill."""
        with warnings.catch_warnings():
            warnings.simplefilter(
                "ignore", ResourceWarning
            )  # the package leaves the sockets open with which it tries ports
            self._server = self._package.MilvusServer(self._package.MilvusServerConfig(), **self._options)
            for attempt in range(30):
                try:
                    self._server.start()
                    break
                except RuntimeError as error:
                    if "bind failed" not in str(error) or attempt == 29:
                        raise
                    time.sleep(3)
            gc.collect()

    def kill(self) -> None:
        """End it as a power failure would; nothing happens if it is not running."""
        if self._server.running:
            self._server.server_proc.kill()
            self._server.server_proc.wait()
            self._server.server_proc = None
        self._server.stop()  # closes its logs
