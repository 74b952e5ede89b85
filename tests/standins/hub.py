"""A STAND-IN for the Hugging Face hub on this machine: what pushing asks of it, and everything that it was given."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self


@dataclass
class Hub:
    """Files by repository and path, as they were committed."""

    token: str = "hf_standin"
    files: dict[str, bytes] = field(default_factory=dict)
    repositories: dict[str, bool] = field(default_factory=dict)  # whether private
    stored: dict[str, bytes] = field(default_factory=dict)  # large files, by digest
    commits: int = 0
    fails: bool = False

    def __enter__(self) -> Self:
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: Any) -> None: ...

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                if self.headers.get("authorization") != f"Bearer {hub.token}":
                    self.answer(401, {"error": "who are you?"})
                else:
                    self.answer(*hub.asked(self.path, body))

            def do_PUT(self) -> None:
                data = self.rfile.read(int(self.headers["content-length"]))
                hub.stored[self.path.rpartition("/")[2]] = data
                self.answer(200, {})

            def answer(self, code: int, value: Any) -> None:
                data = json.dumps(value).encode()
                self.send_response(code)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.endpoint = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def asked(self, path: str, body: bytes) -> tuple[int, Any]:
        if path == "/api/repos/create":
            about = json.loads(body)
            name = f"{about['organization']}/{about['name']}" if about.get("organization") else about["name"]
            known = name in self.repositories
            self.repositories.setdefault(name, about.get("private") or about.get("visibility") == "private")
            return (409 if known else 200), {"url": f"{self.endpoint}/{name}", "name": name, "id": name}
        if path == "/api/validate-yaml":
            return 200, {"warnings": [], "errors": []}
        if "/preupload/" in path:
            large = (".safetensors", ".engine", ".onnx")
            files = [
                {
                    "path": one["path"],
                    "uploadMode": "lfs" if one["path"].endswith(large) else "regular",
                    "shouldIgnore": False,
                }
                for one in json.loads(body)["files"]
            ]
            return 200, {"files": files}
        if path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{self.endpoint}/stored/{one['oid']}", "header": {}}}}
                for one in json.loads(body)["objects"]
            ]
            return 200, {"transfer": "basic", "objects": objects}
        if "/commit/" in path:
            if self.fails:
                return 500, {"error": "the disk is full"}
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    self.files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    data = self.stored[value["oid"]]
                    assert hashlib.sha256(data).hexdigest() == value["oid"]
                    self.files[value["path"]] = data
            self.commits += 1
            return 200, {
                "commitUrl": f"{self.endpoint}/me/small/commit/1",
                "commitOid": "1" * 40,
                "success": True,
                "hookOutput": "",
            }
        return 404, {"error": path}
