"""Data on other machines: real servers of http and S3 on this one, in good and in bad order."""

import base64
import functools
import http.server
import json
import os
import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import soundfile

from parakeet_ft import urls
from parakeet_ft.data import audio, remote, sources, storage
from parakeet_ft.data.corpus import Corpus
from parakeet_ft.data.manifest import Utterance, write_manifest
from parakeet_ft.data.parallel import InlineExecutor
from parakeet_ft.data.shards import write_shards
from parakeet_ft.errors import UserError
from parakeet_ft.settings.manifests import weighted

WORDS = ("alfa", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel")


LOGIN = "Basic " + base64.b64encode(b"ann:pass w@rd").decode()


class Handler(http.server.SimpleHTTPRequestHandler):
    """Files with ranges (which Python's own server lacks), and faults on request; a server that is
    `closed` wants a login or a signature.
    """

    ranges = True

    def knows(self):
        signed = self.path.endswith("?X-Amz-Signature=5ec2e7")
        return not self.server.closed or signed or self.headers.get("Authorization") == LOGIN

    def do_HEAD(self):
        return super().do_HEAD() if self.knows() else self.send_error(401)

    def do_GET(self):
        if not self.knows():
            return self.send_error(401)
        self.server.asked.append((self.path, self.headers.get("Range")))
        if self.server.faults and not self.path.endswith("/"):
            return self.fail(self.server.faults.pop(0))
        wanted = self.headers.get("Range")
        if not (self.ranges and wanted):
            return super().do_GET()
        data = Path(self.translate_path(self.path)).read_bytes()
        first, last = wanted.removeprefix("bytes=").split("-")
        part = data[int(first) : int(last or len(data)) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(data)}")
        self.end_headers()
        self.wfile.write(part)

    def fail(self, fault):
        if fault == "drop":
            self.send_response(206)
            self.send_header("Content-Length", "1000000")
            self.end_headers()
            self.wfile.write(b"some")
            self.close_connection = True
            return
        self.send_error(fault)

    def log_message(self, *_):
        pass


@pytest.fixture
def serve(tmp_path):
    """serve(folder, ranges=True) -> a server of its files, with the requests that it got."""
    servers = []

    def start(folder, *, ranges=True):
        kind = type("Handler", (Handler,), {"ranges": ranges})
        server = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(kind, directory=str(folder))
        )
        server.asked, server.faults, server.closed = [], [], False
        server.url = f"http://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return server

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Eight FLAC files, and the shards of both layouts that were made of them."""
    folder, rng = tmp_path_factory.mktemp("corpus"), np.random.default_rng(0)
    rows = []
    for i in range(8):
        soundfile.write(folder / f"{i}.flac", 0.1 * rng.standard_normal(8000 + 800 * i), 16000)
        rows.append(Utterance(f"{i}.flac", 0.5 + 0.05 * i, f"squawk {WORDS[i]}"))
    write_manifest(rows, folder / "m.jsonl")
    for layout in ("nemo", "shar"):
        write_shards(
            folder / "m.jsonl",
            out=folder / layout,
            hours=2 / 3600,
            format=layout,
            executor=InlineExecutor,
        )
    return folder


@pytest.fixture(autouse=True)
def quick_and_clean(tmp_path, monkeypatch):
    monkeypatch.setenv("PARAKEET_FT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote, "PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(remote, "_copies", {})


def read(name):
    return sources.read_all(weighted(str(name)))


def heard(utterances):
    return {u.text: audio.read_utterance(u).tobytes() for u in utterances}


def tokens_of(text):
    return list(text.encode())


def told(call):
    with pytest.raises(UserError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


NAMES = ["m.jsonl", "nemo", "nemo/tarred_audio_manifest.json", "shar"]


@pytest.mark.parametrize("name", NAMES)
def test_what_a_web_server_holds_is_what_the_folder_holds(corpus, serve, name):
    server = serve(corpus)
    assert heard(read(f"{server.url}/{name}")) == heard(read(corpus / name))


@pytest.mark.parametrize("name", NAMES)
def test_a_server_without_ranges_is_told_of_and_read_whole_once(
    corpus, serve, name, capfd, monkeypatch
):
    server = serve(corpus, ranges=False)
    remote._complain_once.cache_clear()
    remote._gives_whole_files.cache_clear()
    found = read(f"{server.url}/{name}")
    assert heard(found) == heard(read(corpus / name))
    if name != "m.jsonl":
        assert "gives whole files only" in capfd.readouterr().err
        server.asked.clear()
        heard(found)
        monkeypatch.setattr(remote, "_copies", {})  # as in another process
        remote._gives_whole_files.cache_clear()
        heard(found)
        assert [path for path, _ in server.asked if path.endswith(".tar")] == []


@pytest.mark.parametrize("damage", [lambda d: d[:-600], lambda d: d[:700] + b"?" + d[701:]])
def test_a_copy_that_was_damaged_is_fetched_again_and_told(
    corpus, serve, capfd, monkeypatch, tmp_path, damage
):
    server = serve(corpus, ranges=False)
    remote._complain_once.cache_clear()
    remote._gives_whole_files.cache_clear()
    found = read(f"{server.url}/nemo")
    expected = heard(found)
    copies = [p for p in (tmp_path / "cache").glob("copy-*") if p.suffix != ".json"]
    assert copies
    for copy in copies:
        copy.write_bytes(damage(copy.read_bytes()))
    monkeypatch.setattr(remote, "_copies", {})  # as in another process
    remote._gives_whole_files.cache_clear()
    assert heard(found) == expected
    assert "is damaged: it is copied again" in capfd.readouterr().err


def test_the_members_of_a_batch_are_stretches_of_their_tars(corpus, serve):
    server = serve(corpus)
    found = read(f"{server.url}/nemo")
    server.asked.clear()
    held = audio.hold_members(found[:4])
    assert len(server.asked) == 4 and all(wanted for _, wanted in server.asked)
    assert [len(h.data) for h in held] < [u.member.size + 1 for u in found[:4]]


@pytest.mark.parametrize("fault", ["drop", 503, 429])
def test_what_fails_for_a_while_is_asked_for_again(corpus, serve, fault):
    server = serve(corpus)
    found = read(f"{server.url}/nemo")
    expected = heard(read(corpus / "nemo"))
    server.faults += [fault] * 4
    held = audio.hold_members(found)
    assert not server.faults
    samples = [audio.read_utterance(u, held=h) for u, h in zip(found, held, strict=True)]
    assert [s.tobytes() for s in samples] == [expected[u.text] for u in found]


def test_a_server_in_trouble_is_complained_of_once_a_minute(corpus, serve, capsys, monkeypatch):
    server, other = serve(corpus), serve(corpus)

    def complaints(server):
        server.faults += [503] * 3
        storage.read(f"{server.url}/m.jsonl")
        return capsys.readouterr().err.count("does not answer as it should")

    assert [complaints(server), complaints(server), complaints(other)] == [1, 0, 1]
    monkeypatch.setattr(remote, "TOLD_SECONDS", 0.0)  # a minute later
    assert complaints(server) == 2


def test_what_goes_on_failing_is_told_once_with_the_number_of_tries(corpus, serve):
    server = serve(corpus)
    found = read(f"{server.url}/nemo")
    server.faults += [500] * 100
    message = told(lambda: audio.read_utterance(found[0]))
    assert found[0].member.file in message and f"after {remote.TRIES} tries" in message


def test_what_no_try_can_help_is_told_at_once(corpus, serve):
    server = serve(corpus)
    assert "No manifest at" in told(lambda: read(f"{server.url}/none.jsonl"))
    server.faults += [403] * 2
    with pytest.raises(UserError, match="No right to read"):
        storage.read(f"{server.url}/m.jsonl")
    assert len(server.faults) == 1


@pytest.mark.parametrize("name", NAMES)
def test_a_password_is_used_and_is_in_no_name_and_not_in_the_cache(
    corpus, serve, tmp_path, name, monkeypatch
):
    server = serve(corpus)
    server.closed = True
    monkeypatch.setenv(urls.TAKEN, "{}")
    assert "No right to read" in told(lambda: storage.read(f"{server.url}/m.jsonl"))
    given = f"{server.url.replace('://', '://ann:pass%20w%40rd@')}/{name}"
    found = Corpus.open(given)
    assert heard(found) == heard(read(corpus / name))
    assert found.parts[0].name == f"{server.url}/{name}"
    assert all(u.audio_filepath.startswith(f"{server.url}/") for u in found)
    assert sources.facts(weighted(given))["path"] == f"{server.url}/{name}"
    kept = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert kept and not any(b"pass%20" in path.read_bytes() for path in kept)


def test_a_signature_is_used_and_is_in_no_name(corpus, serve, monkeypatch):
    server = serve(corpus)
    server.closed = True
    monkeypatch.setenv(urls.TAKEN, "{}")
    given = f"{server.url}/m.jsonl?X-Amz-Signature=5ec2e7"
    (named,) = weighted(given)
    assert named.manifest == f"{server.url}/m.jsonl"
    assert storage.read(named.manifest) == (corpus / "m.jsonl").read_bytes()
    # What is signed is the manifest alone.
    message = told(lambda: read(given))
    assert f"No right to read {server.url}/0.flac" in message and "5ec2e7" not in message


def test_nobody_at_an_address_is_told():
    assert "Cannot read http://127.0.0.1:9" in told(lambda: read("http://127.0.0.1:9/m.jsonl"))


def test_a_tar_without_an_index_is_gone_through_once(corpus, serve, tmp_path):
    folder = shutil.copytree(corpus / "nemo", tmp_path / "nemo")
    for index in folder.glob("*.idx"):
        index.unlink()
    server = serve(folder)
    expected = heard(read(corpus / "nemo"))
    assert heard(read(server.url)) == expected
    server.asked.clear()
    read(server.url)
    walked = [wanted for path, wanted in server.asked if path.endswith("audio_0.tar")]
    assert all(int(w.split("-")[1]) - int(w.split("=")[1].split("-")[0]) < 512 for w in walked)


@pytest.mark.parametrize(
    "path", ["/etc/passwd", "http://127.0.0.1:1/x.flac", "s3://bucket/x.flac", "file:///etc/passwd"]
)
def test_a_manifest_elsewhere_names_audio_of_its_own_place_only(serve, tmp_path, path):
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"audio_filepath": path, "duration": 1.0, "text": "t"}) + "\n"
    )
    server = serve(tmp_path)
    message = told(lambda: audio.hold_members(read(f"{server.url}/m.jsonl")))
    assert ("expected a path relative" in message) or f"Nothing at {server.url}" in message


def test_a_name_of_a_manifest_never_leaves_its_server(serve, tmp_path):
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"audio_filepath": "../../../etc/x", "duration": 1.0, "text": "t"}) + "\n"
    )
    server = serve(tmp_path)
    assert [u.member.file for u in read(f"{server.url}/m.jsonl")] == [f"{server.url}/etc/x"]


def test_a_missing_package_is_named_with_what_installs_it(monkeypatch):
    import fsspec

    def missing(*_, **__):
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec, "filesystem", missing)
    message = told(lambda: sources.expand("s3://bucket/m.jsonl"))
    assert "needs the package s3fs" in message and "parakeet-ft[storage]" in message


@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_workers_read_elsewhere_though_this_process_did_before(corpus, serve, start):
    import torch

    from parakeet_ft.batches.loaders import BatchDataset, as_float

    server = serve(corpus)
    found = read(f"{server.url}/nemo")
    audio.hold_members(found)
    batches = [[0, 1, 2], [3, 4], [5, 6, 7]]
    loader = torch.utils.data.DataLoader(
        BatchDataset(found, tokens_of, rate_hz=16000),
        sampler=batches,
        batch_size=None,
        num_workers=2,
        multiprocessing_context=start,
    )
    expected = heard(read(corpus / "nemo"))
    for batch, (samples, lengths, *_) in zip(batches, loader, strict=True):
        for row, index in enumerate(batch):
            ours = as_float(samples[row, : lengths[row]]).numpy().tobytes()
            assert ours == expected[found[index].text]


def test_a_run_checks_and_maps_what_lies_elsewhere_and_leaves_nothing_half_read(
    corpus, serve, tmp_path, monkeypatch
):
    from parakeet_ft import preflight

    server = serve(corpus)
    scored = tmp_path / "dev.jsonl"
    soundfile.write(tmp_path / "dev.flac", 0.1 * np.ones(16000), 16000)
    write_manifest([Utterance("dev.flac", 1.0, "squawk")], scored)
    named = f"[{server.url}/shar,{{manifest: {server.url}/nemo, weight: 2}}]"
    command = ["model=tiny", f"data.train={named}", f"data.validation={scored}"]
    _, settings, sets = preflight.check_finetune(command)
    assert [part.weight for part in sets["train"].parts] == [1.0, 2.0]
    expected = heard(read(corpus / "nemo"))
    assert heard(sets["train"][:8]) == heard(sets["train"][8:]) == expected
    server.asked.clear()
    again = preflight.read_manifests(settings.data)["train"]
    assert list(again) == list(sets["train"])
    assert not [path for path, _ in server.asked if path.endswith((".tar", ".gz"))]
    facts = preflight.set_facts(settings.data)["train"]
    assert facts["path"][1] == {"manifest": f"{server.url}/nemo", "weight": 2}


@pytest.fixture(scope="module")
def bucket(corpus):
    """s3://speech with the corpus in it, on moto's server."""
    moto = pytest.importorskip("moto.server")
    import botocore.session

    server = moto.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    given = {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {key: os.environ.get(key) for key in given}
    os.environ.update(given)
    client = botocore.session.get_session().create_client("s3")
    client.create_bucket(Bucket="speech")
    for path in corpus.rglob("*"):
        if path.is_file():
            key = str(path.relative_to(corpus))
            client.put_object(Bucket="speech", Key=key, Body=path.read_bytes())
    yield client
    server.stop()
    for key, value in before.items():
        os.environ.pop(key)
        if value is not None:
            os.environ[key] = value


@pytest.mark.parametrize("name", NAMES)
def test_what_a_bucket_holds_is_what_the_folder_holds(corpus, bucket, name):
    assert heard(read(f"s3://speech/{name}")) == heard(read(corpus / name))


def test_the_identity_of_an_object_changes_with_its_content(corpus, bucket):
    before = sources.identity(weighted("s3://speech/m.jsonl"))
    assert sources.identity(weighted("s3://speech/m.jsonl")) == before
    text = (corpus / "m.jsonl").read_text()
    bucket.put_object(
        Bucket="speech", Key="m.jsonl", Body=text.replace("squawk bravo", "squawk golf")
    )
    assert sources.identity(weighted("s3://speech/m.jsonl")) != before


def test_a_bucket_that_is_not_there_is_told(bucket):
    assert "No manifest at s3://nowhere/m.jsonl" in told(lambda: read("s3://nowhere/m.jsonl"))


def test_missing_credentials_are_told_with_where_they_are_looked_for(bucket, monkeypatch, tmp_path):
    for key in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(key)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    import s3fs

    s3fs.S3FileSystem.clear_instance_cache()
    message = told(lambda: read("s3://speech/nemo"))
    assert "No right to read s3://speech/nemo" in message and "~/.aws/credentials" in message
    s3fs.S3FileSystem.clear_instance_cache()
