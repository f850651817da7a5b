#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A server on the loopback interface that speaks the Hub's protocol, with defects on request."""

import hashlib
import http.server
import threading
import urllib.parse

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def git_sha1(content):
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        """A client that hangs up is part of the tests."""


class Hub:
    """Repositories as {id: {"files": {name: bytes}, ...}}; what was asked is kept in `log`."""

    def __init__(self):
        self.repos = {}
        self.log = []
        self.cut_after = {}      # file name -> bytes sent before the connection breaks, once
        self.corrupt = set()     # file names whose content is altered
        self.no_range = set()    # file names that are always sent whole
        self.errors = {}         # file name -> list of statuses answered before the real one
        self.server = Server(("127.0.0.1", 0), self.handler())
        self.cdn = Server(("127.0.0.1", 0), self.cdn_handler())
        for server in (self.server, self.cdn):
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = "http://127.0.0.1:%d" % self.server.server_port
        self.cdn_url = "http://localhost:%d" % self.cdn.server_port

    def close(self):
        for server in (self.server, self.cdn):
            server.shutdown()
            server.server_close()

    def send_content(self, request, name, content):
        queue = self.errors.get(name)
        if queue:
            request.send_response(queue.pop(0))
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start = 0
        header = request.headers.get("Range")
        if header and name not in self.no_range:
            start = int(header.split("=")[1].split("-")[0])
        if start > 0 and start >= len(content):
            request.send_response(416)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        body = content[start:]
        if name in self.corrupt:
            body = bytes([body[0] ^ 1]) + body[1:]
        request.send_response(206 if start else 200)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        cut = self.cut_after.pop(name, None)
        request.wfile.write(body if cut is None else body[:cut])
        if cut is not None:
            request.wfile.flush()
            request.connection.close()

    def handler(self):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def refuse(self, status, code=None):
                self.send_response(status)
                if code:
                    self.send_header("X-Error-Code", code)
                if code == "EntryNotFound":
                    self.send_header("X-Repo-Commit", COMMIT)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def answer(self, head):
                hub.log.append((self.command, self.path, self.headers.get("Authorization")))
                repo_id, _, rest = self.path.lstrip("/").partition("/resolve/")
                revision, _, name = rest.partition("/")
                name = urllib.parse.unquote(name)
                repo = hub.repos.get(repo_id)
                if repo is None:
                    return self.refuse(401, "RepoNotFound")
                if "moved_to" in repo:
                    self.send_response(307)
                    self.send_header("Location", "/%s/resolve/%s" % (repo["moved_to"], rest))
                    self.send_header("Content-Length", "0")
                    return self.end_headers()
                if repo.get("gated") and self.headers.get("Authorization") != "Bearer good":
                    return self.refuse(403, "GatedRepo")
                if urllib.parse.unquote(revision) not in ("main", COMMIT, "refs/pr/1"):
                    return self.refuse(404, "RevisionNotFound")
                content = repo["files"].get(name)
                if content is None:
                    return self.refuse(404, "EntryNotFound")
                large = name in repo.get("large", ())
                if not head and not large:
                    return hub.send_content(self, name, content)
                self.send_response(302 if large else 200)
                self.send_header("X-Repo-Commit", COMMIT)
                if large:
                    self.send_header("X-Linked-Etag", '"%s"' % hashlib.sha256(content).hexdigest())
                    self.send_header("X-Linked-Size", str(len(content)))
                    self.send_header("ETag", '"something else"')
                    self.send_header("Location", "%s/%s/%s" % (hub.cdn_url, repo_id, name))
                    self.send_header("Content-Length", "0")
                else:
                    self.send_header("ETag", 'W/"%s"' % git_sha1(content))
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()

            def do_HEAD(self):
                self.answer(True)

            def do_GET(self):
                self.answer(False)

        return Handler

    def cdn_handler(self):
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments):
                pass

            def do_GET(self):
                hub.log.append(("CDN", self.path, self.headers.get("Authorization")))
                namespace, name, file = self.path.lstrip("/").split("/", 2)
                hub.send_content(self, file, hub.repos[namespace + "/" + name]["files"][file])

        return Handler
