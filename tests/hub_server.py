"""A server on this machine that speaks as much of the Hub's API as a push needs."""

from __future__ import annotations

import base64
import hashlib
import json
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_onlyforthetests"


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        files: (repository, branch) -> path -> content, of what was committed.
        visibility: of each repository.
        commits: first lines, in their order.
        asked: method and path of each request.
        refuse: part of method and path -> status that is answered there; 0 breaks the connection off.
    """

    url: str = ""
    files: dict[tuple[str, str], dict[str, bytes]] = field(default_factory=dict)
    visibility: dict[str, str | None] = field(default_factory=dict)
    commits: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    refuse: dict[str, int] = field(default_factory=dict)
    large: dict[str, bytes] = field(default_factory=dict)  # by sha256, uploaded and perhaps never committed


class Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._serve()

    do_POST = do_PUT = do_GET  # noqa: N815

    def _serve(self) -> None:
        path = self.path.partition("?")[0]
        self.hub.asked.append(f"{self.command} {path}")
        refused = next((status for part, status in self.hub.refuse.items() if part in self.hub.asked[-1]), None)
        if refused == 0:
            self.rfile.read(10 if self.command == "PUT" else 0)  # in the middle of an upload
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self._body()
        if refused is not None:
            self._answer(refused, {"error": "refused by the test"})
        elif path.startswith("/lfs/"):
            self.hub.large[hashlib.sha256(body).hexdigest()] = body
            self._answer(200, {})
        elif self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self._answer(401, {"error": "Invalid username or password."})
        else:
            self._answer(*self._api(path, body))

    def _api(self, path: str, body: bytes) -> tuple[int, Any]:
        hub, parts = self.hub, path.strip("/").split("/")
        if path == "/api/whoami-v2":
            return 200, {"name": "me", "type": "user", "orgs": []}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if path == "/api/repos/create":
            asked = json.loads(body)
            repo = f"{asked['organization'] or 'me'}/{asked['name']}"
            if not repo.startswith("me/"):
                return 403, {"error": "You don't have the rights to create a model under this namespace"}
            status = 409 if repo in hub.visibility else 200
            hub.visibility.setdefault(repo, asked.get("visibility"))
            hub.files.setdefault((repo, "main"), {})
            return status, {"url": f"{hub.url}/{repo}"}
        repo = "/".join(parts[2:4]) if parts[0] == "api" else "/".join(parts[:2]).removesuffix(".git")
        if path.endswith("/info/lfs/objects/batch"):
            objects = json.loads(body)["objects"]
            links = {each["oid"]: {"upload": {"href": f"{hub.url}/lfs/{each['oid']}"}} for each in objects}
            return 200, {"transfer": "basic", "objects": [{**each, "actions": links[each["oid"]]} for each in objects]}
        if repo not in hub.visibility:
            return 404, {"error": "Repository not found"}
        action, branch = (parts[4], parts[5]) if len(parts) > 5 else ("", "main")
        if action == "branch":
            hub.files.setdefault((repo, branch), {})
            return 200, {}
        if (repo, branch) not in hub.files:
            return 404, {"error": "Revision not found"}
        if action == "preupload":
            return 200, {"files": [self._mode(each) for each in json.loads(body)["files"]]}
        if action == "commit":
            return 200, self._commit(repo, branch, [json.loads(line) for line in body.splitlines()])
        return 200, {"id": repo, "sha": "0" * 40, "siblings": [], "private": False}

    @staticmethod
    def _mode(file: dict[str, Any]) -> dict[str, Any]:
        large = file["path"].endswith((".safetensors", ".parquet"))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def _commit(self, repo: str, branch: str, lines: list[dict[str, Any]]) -> dict[str, Any]:
        for line in lines:
            value = line["value"]
            if line["key"] == "header":
                self.hub.commits.append(value["summary"])
            elif line["key"] == "file":
                self.hub.files[repo, branch][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                self.hub.files[repo, branch][value["path"]] = self.hub.large[value["oid"]]
        return {"commitUrl": f"{self.hub.url}/{repo}/commit/{'1' * 40}", "commitOid": "1" * 40}

    def _body(self) -> bytes:
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def _answer(self, status: int, content: Any) -> None:
        text = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


def serve(hub: Hub) -> ThreadingHTTPServer:
    """Start the server in a thread of its own, on any free port."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    return server
