"""Object stores without a cloud: in the memory of this process, or an S3 server of this machine."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar
from urllib.request import Request, urlopen

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

KEYS = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Memory(MemoryFileSystem):
    """What answers at gs://. It refuses writing after `puts` objects."""

    protocol = ("gs", "gcs")
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    puts: ClassVar[float] = float("inf")

    @classmethod
    def _strip_protocol(cls, path: Any) -> str:
        text = os.fspath(path)
        return super()._strip_protocol(text.removeprefix("gs://").removeprefix("gcs://"))

    def pipe_file(self, path: str, value: bytes, *args: Any, **kwargs: Any) -> None:
        if Memory.puts < 1:
            raise PermissionError("Forbidden")
        Memory.puts -= 1
        super().pipe_file(path, value, *args, **kwargs)


@contextmanager
def memory() -> Iterator[str]:
    """The address of an empty bucket in memory."""
    for protocol in Memory.protocol:
        fsspec.register_implementation(protocol, Memory, clobber=True)
    Memory.clear_instance_cache()
    Memory.store.clear()
    Memory.puts = float("inf")
    yield "gs://bucket"


@contextmanager
def s3() -> Iterator[tuple[str, dict[str, str]]]:
    """The address of an empty bucket on this machine, and the environment to find it."""
    moto = pytest.importorskip("moto.server", reason="moto, of the extra `dev`, is not installed")
    pytest.importorskip("s3fs", reason="s3fs, of the extra `cloud`, is not installed")
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    told = {**KEYS, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in told.items():
            patch.setenv(name, value)
        reset = Request(f"{told['AWS_ENDPOINT_URL']}/moto-api/reset", method="POST")
        urlopen(reset).close()  # what a server before it held in this process
        fsspec.get_filesystem_class("s3").clear_instance_cache()  # clients of that server
        store = fsspec.filesystem("s3", endpoint_url=told["AWS_ENDPOINT_URL"])
        store.mkdir("bucket")
        try:
            yield "s3://bucket", told
        finally:
            server.stop()
