"""A fake of the hub: the few answers of its HTTP interface that fetching needs, over files that a test gives it."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Repositories = dict[str, dict[str, bytes]]
"""Files by path, by ``datasets/owner/name`` or ``owner/name``."""


def commit_of(files: dict[str, bytes]) -> str:
    return hashlib.sha1(b"".join(k.encode() + v for k, v in sorted(files.items()))).hexdigest()


class FakeHub(ThreadingHTTPServer):
    """``cut``: so many bytes of a file are sent, then the connection ends, once a file; ``lost``: files not given out;
    ``lied``: the sha256 that is published instead of the right one; ``asked``: GET requests with their Range."""

    daemon_threads = True

    def __init__(self, repositories: Repositories) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories, self.asked = repositories, list[tuple[str, str | None]]()
        self.cut: int | None = None
        self.gated: set[str] = set()
        self.lost: set[str] = set()
        self.lied: dict[str, str] = {}
        self.was_cut: set[str] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Range")))
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        path = self.path.partition("?")[0].strip("/")
        about = re.fullmatch(r"api/(datasets|models)/([^/]+/[^/]+)(?:/revision/(.+))?", path)
        file = re.fullmatch(r"((?:datasets/)?[^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        tree = re.fullmatch(r"api/(datasets|models)/([^/]+/[^/]+)/tree/([^/]+)", path)
        about = about or tree
        name = f"{'datasets/' if about[1] == 'datasets' else ''}{about[2]}" if about else file[1] if file else ""
        files = self.server.repositories.get(name)
        if files is None:
            return self._send(404, b"", body, {"X-Error-Code": "RepoNotFound"})
        if name in self.server.gated:
            return self._send(403, b"", body, {"X-Error-Code": "GatedRepo"})
        commit = commit_of(files)
        if about is not None:
            if about[3] not in (None, "main", commit):
                return self._send(404, b"", body, {"X-Error-Code": "RevisionNotFound"})
            if tree is not None:
                entries = [
                    {"type": "file", "path": f["rfilename"], "oid": f["blobId"], **f} for f in self._listed(files)
                ]
                return self._send(200, json.dumps(entries).encode(), body, {"Content-Type": "application/json"})
            facts = {
                "id": about[2],
                "sha": commit,
                "siblings": self._listed(files),
                "private": False,
                "tags": [],
                "downloads": 0,
            }
            return self._send(200, json.dumps(facts).encode(), body, {"Content-Type": "application/json"})
        assert file is not None
        if file[3] in self.server.lost:
            return self._send(404, b"", body, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
        content = files[file[3]]
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        self._file(file[3], content, body, headers)

    def _listed(self, files: dict[str, bytes]) -> list[dict[str, Any]]:
        return [self._facts(path, content) for path, content in files.items()]

    def _facts(self, path: str, content: bytes) -> dict[str, Any]:
        sha256 = self.server.lied.get(path, hashlib.sha256(content).hexdigest())
        lfs = (
            {"lfs": {"size": len(content), "oid": sha256, "sha256": sha256, "pointerSize": 130}}
            if len(content) > 1000
            else {}
        )
        return {"rfilename": path, "size": len(content), "blobId": hashlib.sha1(content).hexdigest(), **lfs}

    def _file(self, path: str, content: bytes, body: bool, headers: dict[str, str]) -> None:
        begin = int(re.match(r"bytes=(\d+)-", self.headers.get("Range", "bytes=0-"))[1])  # type: ignore[index]
        if "Range" in self.headers:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        status = 206 if "Range" in self.headers else 200
        cut = self.server.cut
        if body and cut is not None and cut < len(content) and path not in self.server.was_cut:
            self.server.was_cut.add(path)
            self.send_response(status)
            for key, value in {**headers, "Content-Length": str(len(content) - begin)}.items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(content[begin:cut])
            self.close_connection = True
            return None
        return self._send(status, content[begin:], body, headers)

    def _send(self, status: int, content: bytes, body: bool, headers: dict[str, str]) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)


@contextmanager
def fake_hub(repositories: Repositories) -> Iterator[FakeHub]:
    server = FakeHub(repositories)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
