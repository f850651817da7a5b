#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""test_hub.py CLIENT: the Hub client against a local server and its defects."""

import json
import os
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(__file__))
from hub_server import COMMIT, Hub  # noqa: E402

CLIENT = None
WEIGHTS = bytes(range(256)) * 4096  # 1 MiB


def model_files(n_shards=2):
    shards = {"model-%d.safetensors" % i: WEIGHTS[i:] for i in range(n_shards)}
    index = {"weight_map": {"tensor.%d" % i: name for i, name in enumerate(shards)}}
    return {"config.json": b'{"model_type": "llava"}', "tokenizer.json": b"{}",
            "model.safetensors.index.json": json.dumps(index).encode(), **shards}


class HubTest(unittest.TestCase):
    def setUp(self):
        self.hub = Hub()
        files = model_files()
        self.hub.repos["org/model"] = {"files": files,
                                       "large": [n for n in files if n.endswith(".safetensors")]}
        self.folder = tempfile.TemporaryDirectory()
        self.cache = os.path.join(self.folder.name, "hub")

    def tearDown(self):
        self.hub.close()
        self.folder.cleanup()

    def fetch(self, repo, *options, endpoint=None):
        run = subprocess.run([CLIENT, self.cache, endpoint or self.hub.url, repo, *options],
                             capture_output=True, text=True, timeout=60)
        self.assertEqual(run.stderr, "")
        return run.returncode, run.stdout.strip()

    def check_content(self, directory):
        for name, content in self.hub.repos["org/model"]["files"].items():
            path = os.path.join(directory, name)
            self.assertTrue(os.path.islink(path), name)
            with open(path, "rb") as file:
                self.assertEqual(file.read(), content, name)

    def test_snapshot(self):
        code, directory = self.fetch("org/model", "token=good")
        self.assertEqual(code, 0, directory)
        self.assertTrue(directory.endswith("models--org--model/snapshots/" + COMMIT))
        self.check_content(directory)
        with open(os.path.join(self.cache, "models--org--model", "refs", "main")) as ref:
            self.assertEqual(ref.read(), COMMIT)
        for kind, path, authorization in self.hub.log:
            self.assertEqual(authorization, None if kind == "CDN" else "Bearer good", path)
        missing = os.path.join(self.cache, "models--org--model", ".no_exist", COMMIT, "merges.txt")
        self.assertTrue(os.path.exists(missing))

    def test_second_time_downloads_nothing(self):
        self.fetch("org/model")
        self.hub.log.clear()
        code, _ = self.fetch("org/model")
        self.assertEqual(code, 0)
        self.assertEqual([kind for kind, _, _ in self.hub.log if kind != "HEAD"], [])

    def test_offline(self):
        code, message = self.fetch("org/model", "offline")
        self.assertEqual(code, 1)
        self.assertIn("not in the cache", message)
        self.fetch("org/model")
        self.hub.log.clear()
        code, directory = self.fetch("org/model", "offline")
        self.assertEqual(code, 0, directory)
        self.assertEqual(self.hub.log, [])
        self.check_content(directory)

    def test_unreachable_server_uses_the_cache(self):
        self.fetch("org/model")
        code, directory = self.fetch("org/model", endpoint="http://127.0.0.1:9")
        self.assertEqual(code, 0, directory)
        code, message = self.fetch("org/other", endpoint="http://127.0.0.1:9")
        self.assertEqual(code, 1)
        self.assertIn("cannot be reached", message)

    def test_renamed_repository(self):
        self.hub.repos["org/old"] = {"moved_to": "org/model"}
        code, directory = self.fetch("org/old")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_cut_connection_resumes(self):
        self.hub.cut_after["model-0.safetensors"] = 100000
        code, directory = self.fetch("org/model")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_resume_where_ranges_are_ignored(self):
        self.hub.no_range.add("model-1.safetensors")
        self.hub.cut_after["model-1.safetensors"] = 100000
        code, directory = self.fetch("org/model")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_resume_in_a_later_run(self):
        code, message = self.fetch("org/model", "stop=200000")
        self.assertEqual(code, 1)
        self.assertIn("cancelled", message)
        blobs = os.listdir(os.path.join(self.cache, "models--org--model", "blobs"))
        self.assertTrue(any(name.endswith(".incomplete") for name in blobs))
        code, directory = self.fetch("org/model")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_busy_server_is_asked_again(self):
        self.hub.errors["model-0.safetensors"] = [503, 429]
        code, directory = self.fetch("org/model")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_corrupted_blob(self):
        self.hub.corrupt.add("model-0.safetensors")
        code, message = self.fetch("org/model")
        self.assertEqual(code, 1)
        self.assertIn("does not have the announced hash", message)
        self.hub.corrupt.clear()
        code, directory = self.fetch("org/model")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_refusals(self):
        self.hub.repos["org/gated"] = {"files": model_files(), "gated": True}
        for repo, options, words in [
                ("org/gated", [], "no token was given"),
                ("org/gated", ["token=bad"], "the token given was refused"),
                ("org/none", [], "does not exist, or is private"),
                ("org/model", ["revision=nothing"], "has no revision"),
                ("a/b/c", [], "neither a directory nor a repository id"),
                ("../x", [], "neither a directory nor a repository id"),
                ("org/model", ["revision=../../x"], "is not a revision")]:
            code, message = self.fetch(repo, *options)
            self.assertEqual(code, 1, repo)
            self.assertIn(words, message)
        code, _ = self.fetch("org/gated", "token=good")
        self.assertEqual(code, 0)

    def test_revision_with_slash(self):
        code, directory = self.fetch("org/model", "revision=refs/pr/1")
        self.assertEqual(code, 0, directory)
        self.check_content(directory)

    def test_missing_shard(self):
        del self.hub.repos["org/model"]["files"]["model-1.safetensors"]
        code, message = self.fetch("org/model")
        self.assertEqual(code, 1)
        self.assertIn("model-1.safetensors is missing", message)

    def test_hostile_index(self):
        index = {"weight_map": {"tensor": "../../../escape"}}
        self.hub.repos["org/model"]["files"]["model.safetensors.index.json"] = (
            json.dumps(index).encode())
        code, message = self.fetch("org/model")
        self.assertEqual(code, 1)
        self.assertIn("not a file name", message)

    def test_two_at_once(self):
        runs = [subprocess.Popen([CLIENT, self.cache, self.hub.url, "org/model"],
                                 stdout=subprocess.PIPE, text=True) for _ in range(3)]
        for run in runs:
            directory = run.communicate(timeout=60)[0].strip()
            self.assertEqual(run.returncode, 0, directory)
        self.check_content(directory)
        content = [path for kind, path, _ in self.hub.log if kind == "CDN"]
        self.assertEqual(len(content), len(set(content)), "a blob was downloaded twice")


if __name__ == "__main__":
    CLIENT = sys.argv.pop(1)
    unittest.main()
