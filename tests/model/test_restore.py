"""Sources are checked in milliseconds, fetched once a node, and restored without a trace of their
first training's data.
"""

import http.server
import io
import itertools
import json
import os
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest
import yaml

from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.model import source
from parakeet_ft.model.archive import check_archive, check_weights
from parakeet_ft.model.checkpoints import BUNDLED, CHECKPOINTS, PUBLISHED, resolve
from parakeet_ft.model.restore import restore
from parakeet_ft.model.source import check_source, fetch, locate
from parakeet_ft.tokenizer.sentencepiece_model import read_tokenizer

ROOT = Path(__file__).resolve().parents[2]
NAME = "nvidia/parakeet-ctc-0.6b"


def archive(path: Path, members: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return path


def config(target="nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE", **more) -> bytes:
    return yaml.safe_dump({"target": target} | more).encode()


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """An empty cache, no proxies, and a hub whose address is set by the test."""
    from huggingface_hub import constants

    for name in (
        "http_proxy",
        "https_proxy",
        "all_proxy",
        "HTTP_PROXY",
        "HTTPS_PROXY",
        "ALL_PROXY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    return constants


@pytest.fixture
def closed_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


# Local files.


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid", "hybrid_rnnt"])
def test_every_family_passes_the_check(family, tiny_nemo):
    check_source(str(tiny_nemo(family)))
    assert locate(str(tiny_nemo(family))) == fetch(str(tiny_nemo(family))) == tiny_nemo(family)


def test_a_file_cut_anywhere_is_called_truncated(tiny_nemo, tmp_path):
    whole, path = tiny_nemo("ctc").read_bytes(), tmp_path / "cut.nemo"
    with tarfile.open(tiny_nemo("ctc")) as tar:
        members = {Path(m.name).name: m for m in tar.getmembers()}
    weights = members["model_weights.ckpt"]
    for size in (
        weights.offset_data + 10,
        weights.offset_data + weights.size // 2,
        weights.offset_data + weights.size - 1,
    ):
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match="truncated"):
            check_source(str(path))
    path.write_bytes(whole[: members["model_config.yaml"].offset_data + 100])
    with pytest.raises(UserError, match="truncated"):
        check_source(str(path))


def test_weights_that_were_cut_before_they_were_packed_are_truncated(tmp_path):
    with pytest.raises(UserError, match="weights in .* truncated"):
        check_archive(
            archive(
                tmp_path / "a.nemo",
                {"model_config.yaml": config(), "model_weights.ckpt": b"PK\3\4" + b"x" * 1000},
            )
        )


def test_one_flipped_bit_of_a_weight_is_told(tmp_path):
    content, path = bytearray(locate("tiny").read_bytes()), tmp_path / "x.nemo"
    path.write_bytes(content)
    check_weights(path)
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    check_source(str(path))  # takes milliseconds, so it does not read them
    with pytest.raises(UserError, match="weights in .* are damaged: model_weights/data/"):
        restore(str(path))


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "no tar archive"),
        (b"<html>not found</html>" * 100, "no tar archive .*<html>"),
        (b"\0" * 4096, "no model_config.yaml|no tar"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
    ],
)
def test_a_file_that_is_no_archive_is_a_user_error(content, message, tmp_path):
    (tmp_path / "a.nemo").write_bytes(content)
    with pytest.raises(UserError, match=message):
        check_source(str(tmp_path / "a.nemo"))


def model_of(target: str, **more) -> dict[str, bytes]:
    return {"model_config.yaml": config(target, **more), "model_weights.ckpt": b""}


@pytest.mark.parametrize(
    "members, message",
    [
        ({"readme.txt": b"hello"}, "no model_config.yaml .found: readme.txt"),
        ({"model_config.yaml": config()}, "no model_weights.ckpt"),
        (
            model_of("nemo.collections.tts.models.FastPitchModel"),
            "another kind of model: FastPitch",
        ),
        (
            model_of("nemo.collections.asr.models.EncDecClassificationModel"),
            "another kind of model: EncDecClassification",
        ),
        (
            model_of("nemo.collections.asr.models.EncDecCTCModel"),
            "another kind of model: EncDecCTCModel",
        ),
        (
            model_of("a.EncDecRNNTBPEModel", loss={"loss_name": "multiblank_rnnt"}),
            "multiblank_rnnt",
        ),
        ({"model_config.yaml": b"- 1", "model_weights.ckpt": b""}, "no mapping"),
        ({"model_config.yaml": b"a: [", "model_weights.ckpt": b""}, "cannot be read"),
    ],
)
def test_an_archive_that_is_no_parakeet_is_a_user_error(members, message, tmp_path):
    with pytest.raises(UserError, match=message):
        check_source(str(archive(tmp_path / "a.nemo", members)))


@pytest.mark.parametrize(
    "name", ["nowhere.nemo", "folder/nowhere.nemo", "/nowhere/model.nemo", "parakeet", "a/b/c", ""]
)
def test_a_missing_file_is_a_user_error(name):
    with pytest.raises(UserError, match="No model at|holds 0"):
        check_source(name)


def test_a_folder_with_one_nemo_will_do(tiny_nemo, tmp_path):
    (tmp_path / "parakeet.nemo").symlink_to(tiny_nemo("ctc"))
    assert locate(str(tmp_path)).name == "parakeet.nemo"
    (tmp_path / "other.nemo").symlink_to(tiny_nemo("ctc"))
    with pytest.raises(UserError, match="2 .nemo files"):
        locate(str(tmp_path))


def test_a_folder_of_an_onnx_export_says_what_reads_it(tmp_path):
    folder = tmp_path / "onnx-int8"
    folder.mkdir()
    (folder / "model.int8.onnx").touch()
    (folder / "config.json").write_text('{"model_type": "nemo-conformer-tdt"}')
    line = f'onnx_asr.load_model("nemo-conformer-tdt", "{folder}", quantization="int8")'
    for given in (folder, tmp_path):
        with pytest.raises(UserError, match="no .nemo file but an ONNX export") as told:
            locate(str(given))
        assert line in str(told.value)
    (folder / "config.json").write_text("no JSON")
    with pytest.raises(UserError, match="for onnx-asr"):
        locate(str(folder))


def test_checking_a_file_imports_neither_torch_nor_nemo(tiny_nemo):
    code = (
        "import sys; from parakeet_ft.model.restore import check_source; check_source(sys.argv[1]);"
        "import parakeet_ft.model.vocabulary; sys.exit(any(m in sys.modules for m in ('torch', "
        "'nemo', 'lightning')))"
    )
    assert (
        subprocess.run([sys.executable, "-c", code, str(tiny_nemo("tdt"))], cwd=ROOT).returncode
        == 0
    )


def test_the_tokenizer_is_read_without_restoring(tiny_nemo, tokenizer_dir):
    assert read_tokenizer(tiny_nemo("hybrid")) == (tokenizer_dir / "tokenizer.model").read_bytes()


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_every_named_checkpoint_is_bundled_or_a_hub_id_of_the_same_name(name):
    if name in BUNDLED:
        assert check_archive(source.locate(name))
    else:
        assert source.HUB_ID.fullmatch(resolve(name))
        # The hub's names have dashes where these have underscores.
        assert resolve(name).removeprefix("nvidia/").replace("-", "_") == name


def test_the_architectures_that_are_known_are_those_of_the_published_checkpoints():
    from parakeet_ft.model.replicas import REPLICAS

    assert REPLICAS.keys() == PUBLISHED.keys()


# The hub.


def test_a_hub_id_without_network_is_an_error_that_says_what_to_do(
    hub_cache, closed_port, monkeypatch
):
    monkeypatch.setattr(hub_cache, "ENDPOINT", f"http://127.0.0.1:{closed_port}")
    with pytest.raises(UserError) as error:
        check_source(NAME)
    for hint in (
        hub_cache.HF_HUB_CACHE,
        "127.0.0.1 cannot be reached",
        "model=path/to/parakeet-ctc-0.6b.nemo",
        f"hf download {NAME}",
        "huggingface-cli",
        "HF_HOME",
    ):
        assert hint in str(error.value)
    with pytest.raises(UserError, match="cannot be downloaded"):
        fetch(NAME)


def test_offline_mode_is_respected_and_named(hub_cache, monkeypatch):
    monkeypatch.setattr(hub_cache, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: pytest.fail("the network was touched")
    )
    with pytest.raises(UserError, match="HF_HUB_OFFLINE is set.*unset HF_HUB_OFFLINE"):
        check_source(NAME)


def test_a_network_that_swallows_everything_ends_in_an_error_in_seconds(hub_cache, monkeypatch):
    monkeypatch.setattr(source, "CONNECT_SECONDS", 0.2)
    gate = threading.Event()
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: gate.wait(30))
    try:
        with pytest.raises(UserError, match="no answer from huggingface.co within"):
            check_source(NAME)
    finally:
        gate.set()


def test_a_proxy_is_asked_instead_of_the_hub(hub_cache, monkeypatch):
    asked = []
    monkeypatch.setenv("https_proxy", "http://proxy.example:3128")
    monkeypatch.setattr(
        socket, "create_connection", lambda address, **k: asked.append(address) or io.BytesIO()
    )
    check_source(NAME)
    assert asked == [("proxy.example", 3128)]


def test_a_cached_file_is_used_without_network(hub_cache, tiny_nemo, monkeypatch):
    from huggingface_hub import try_to_load_from_cache

    monkeypatch.setattr(hub_cache, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(
        socket, "create_connection", lambda *a, **k: pytest.fail("the network was touched")
    )
    repository = Path(hub_cache.HF_HUB_CACHE) / "models--nvidia--parakeet-ctc-0.6b"
    for commit in ("aaa", "bbb"):
        (repository / "snapshots" / commit).mkdir(parents=True)
        (repository / "snapshots" / commit / "parakeet-ctc-0.6b.nemo").write_bytes(
            tiny_nemo("ctc").read_bytes()
        )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("aaa")
    check_source(NAME)
    assert str(fetch(NAME)) == try_to_load_from_cache(
        NAME, "parakeet-ctc-0.6b.nemo", cache_dir=hub_cache.HF_HUB_CACHE
    )


class Hub(http.server.BaseHTTPRequestHandler):
    """As much of the hub as hf_hub_download asks for: one file of one repository."""

    def do_GET(self):
        content = self.server.content
        if not self.path.endswith("/parakeet-ctc-0.6b.nemo"):
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        self.send_response(200)
        for name, value in {
            "ETag": '"0123456789abcdef"',
            "X-Repo-Commit": "c" * 40,
            "Content-Length": str(len(content)),
            "Accept-Ranges": "bytes",
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.server.downloads += 1
            time.sleep(0.3)  # a slow network, so that the processes overlap
            self.wfile.write(content)

    do_HEAD = do_GET

    def log_message(self, *args):
        pass


@pytest.fixture
def hub(tiny_nemo):
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub) as server:
        server.content, server.downloads = tiny_nemo("ctc").read_bytes(), 0
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def environment(hub, tmp_path) -> dict[str, str]:
    kept = {
        k: v for k, v in os.environ.items() if "proxy" not in k.lower() and not k.startswith("HF_")
    }
    return kept | {
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_XET": "1",
    }


def test_several_processes_download_once(hub, tmp_path):
    code = f"from parakeet_ft.model.source import fetch; print(fetch({NAME!r}))"
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env=environment(hub, tmp_path) | {"LOCAL_RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(3)
    ]
    paths = {run.communicate(timeout=60)[0].strip() for run in runs}
    assert [run.returncode for run in runs] == [0, 0, 0] and len(paths) == 1
    assert Path(paths.pop()).read_bytes() == hub.content and hub.downloads == 1


def test_an_unknown_name_is_a_user_error(hub, tmp_path):
    code = (
        "from parakeet_ft.errors import exit_on_user_error\nfrom parakeet_ft.model.source import "
        "fetch\n"
        "with exit_on_user_error():\n    fetch('nvidia/parakeet-typo')"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=environment(hub, tmp_path),
        capture_output=True,
        text=True,
    )
    assert (
        run.returncode == 2
        and "could not be downloaded" in run.stderr
        and "Traceback" not in run.stderr
    )


# Restoring.


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ctc", "ctc"),
        ("rnnt", "rnnt"),
        ("tdt", "tdt"),
        ("hybrid", "hybrid_tdt_ctc"),
        ("hybrid_rnnt", "hybrid_rnnt_ctc"),
    ],
)
def test_a_restored_model_is_described_from_its_live_objects(name, expected, tiny_nemo):
    from parakeet_ft.model.restore import describe, family, restore

    model = restore(str(tiny_nemo(name)))
    facts = json.loads(json.dumps(describe(model)))
    assert family(model) == facts["family"] == expected
    assert (
        facts["num_weights"] == sum(p.numel() for p in model.parameters())
        and facts["vocab_size"] == facts["loss"]["blank"] == 64
    )
    assert (
        facts["loss"]["reduction"] == "mean_volume"
        and facts["rate_hz"] == 16000
        and facts["encoder"]["subsampling_factor"] == 8
    )
    assert facts["loss"].get("durations", []) == ([0, 1, 2, 3, 4] if "tdt" in expected else [])
    assert facts["attention"]["self_attention_model"] == "rel_pos"
    assert facts["spec_augment"] == {
        "freq_masks": 2,
        "time_masks": 10,
        "freq_width": 27,
        "time_width": 0.05,
    }


def test_nothing_of_the_first_trainings_data_is_left(tiny_model, tmp_path, speech):
    from omegaconf import open_dict

    from parakeet_ft.model.restore import restore

    model = tiny_model("hybrid")
    with open_dict(model.cfg):
        model.cfg.log_prediction = True
        for name in ("train_ds", "validation_ds", "test_ds"):
            model.cfg[name] = {"manifest_filepath": "/data/secret.json", "max_duration": 3.0}
    model.save_to(str(tmp_path / "a.nemo"))
    model = restore(str(tmp_path / "a.nemo"))
    assert (
        "secret" not in str(model.cfg)
        and not model.wer.log_prediction
        and not model.ctc_wer.log_prediction
    )
    assert len(model.transcribe(str(speech(count=2)), batch_size=2, verbose=False)) == 2
    model.save_to(str(tmp_path / "b.nemo"))
    assert "secret" not in yaml.safe_dump(check_archive(tmp_path / "b.nemo"))


def test_a_forward_pass_of_a_restored_model_waits_for_no_other_rank_as_nemos_still_does(
    tiny_nemo, monkeypatch
):
    import torch
    from nemo.collections.asr.models import ASRModel

    from parakeet_ft.model.restore import restore

    class Waiting(Exception):
        pass

    def wait(*args, **kwargs):
        raise Waiting

    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "all_reduce", wait)
    audio = {"input_signal": torch.randn(1, 16000), "input_signal_length": torch.tensor([16000])}
    restore(str(tiny_nemo("ctc"))).eval()(**audio)
    with pytest.raises(Waiting):
        ASRModel.restore_from(str(tiny_nemo("ctc")), map_location="cpu").eval()(**audio)


def test_nemo_still_cannot_transcribe_files_without_a_validation_section(tiny_model, speech):
    """If this fails, NeMo mended it, and forget_training may remove validation_ds."""
    from omegaconf import open_dict

    model = tiny_model("ctc")
    with open_dict(model.cfg):
        model.cfg.validation_ds = None
    with pytest.raises(AttributeError):
        model.transcribe(str(speech(count=1)), batch_size=1, verbose=False)


@pytest.mark.parametrize("family", ["ctc", "rnnt", "tdt", "hybrid"])
def test_a_checkpoint_that_decodes_one_by_one_is_set_to_batches_with_the_same_texts(
    family, tiny_model, tmp_path, speech, capsys
):
    from omegaconf import open_dict

    model = tiny_model(family)
    configs = [model.cfg.decoding, *([model.cfg.aux_ctc.decoding] if family == "hybrid" else [])]
    for config in configs:
        with open_dict(config):
            config.strategy = "greedy"
    model.save_to(str(tmp_path / "slow.nemo"))
    found = restore(str(tmp_path / "slow.nemo"))
    assert "greedy_batch" in capsys.readouterr().err
    assert found.cfg.decoding.strategy == "greedy_batch"
    assert "Batched" in type(found.decoding.decoding).__name__
    assert getattr(found, "cur_decoder", None) == getattr(model, "cur_decoder", None)
    if family == "hybrid":
        assert "Batched" in type(found.ctc_decoding.decoding).__name__
    clips = [u.audio_filepath for u in read_manifest(speech(count=4))]
    model.change_decoding_strategy(model.cfg.decoding, verbose=False)
    before = [h.text for h in model.transcribe(clips, batch_size=4, verbose=False)]
    after = [h.text for h in found.transcribe(clips, batch_size=4, verbose=False)]
    assert before == after and any(after)


class Payload:
    """What a pickle can do to whoever reads it."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return (os.system, (f"touch {self.mark}",))


@pytest.mark.parametrize("forced", [False, True])
def test_weights_that_carry_code_are_not_read_whatever_the_environment_says(
    forced, tiny_nemo, tmp_path, monkeypatch
):
    import torch

    if forced:
        monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    torch.save({"weight": Payload(tmp_path / "mark")}, tmp_path / "model_weights.ckpt")
    with tarfile.open(tiny_nemo("ctc")) as old, tarfile.open(tmp_path / "evil.nemo", "w") as new:
        for member in old.getmembers():
            if member.isfile() and not member.name.endswith("model_weights.ckpt"):
                new.addfile(member, old.extractfile(member))
        new.add(tmp_path / "model_weights.ckpt", "model_weights.ckpt")
    with pytest.raises(UserError, match="are not plain tensors, so they are not read"):
        restore(str(tmp_path / "evil.nemo"))
    assert not (tmp_path / "mark").exists()


def hostile(path, config, *, kind=tarfile.REGTYPE):
    """A .nemo with a configuration, or what stands in its place, and weights."""
    with tarfile.open(path, "w") as tar:
        member = tarfile.TarInfo("model_config.yaml")
        member.type, member.linkname = kind, "/etc/passwd"
        content = config.encode() if kind == tarfile.REGTYPE else b""
        member.size = len(content)
        tar.addfile(member, io.BytesIO(content))
        weights = tarfile.TarInfo("model_weights.ckpt")
        tar.addfile(weights, io.BytesIO(b""))
    return path


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]\n"
    for before, name in itertools.pairwise("abcdefghijk")
)
TARGET = "target: nemo.collections.asr.models.EncDecCTCModelBPE\n"


@pytest.mark.parametrize(
    ("config", "kind", "said"),
    [
        ("", tarfile.SYMTYPE, "is a link or a folder"),
        ("", tarfile.DIRTYPE, "is a link or a folder"),
        ("", tarfile.LNKTYPE, "is a link or a folder"),
        (f"{TARGET}loss: ctc\n", tarfile.REGTYPE, "`loss` of model_config.yaml is str"),
        (f"{TARGET}tokenizer: [1]\n", tarfile.REGTYPE, "`tokenizer` of model_config.yaml is list"),
        (f"{TARGET}encoder: 3\n", tarfile.REGTYPE, "`encoder` of model_config.yaml is int"),
        (f"{TARGET}{BOMB}", tarfile.REGTYPE, "when its aliases are followed"),
        (f"{TARGET}a: &a [*a]\n", tarfile.REGTYPE, "when its aliases are followed"),
        (f"{TARGET}a: {'[' * 5000}\n", tarfile.REGTYPE, "cannot be read"),
        (f"{TARGET}a: !!python/object:os.system [x]\n", tarfile.REGTYPE, "cannot be read"),
        (f"{TARGET}a: '{'x' * 5_000_000}'\n", tarfile.REGTYPE, "has 5000"),
    ],
)
def test_a_hostile_configuration_is_a_user_error(config, kind, said, tmp_path):
    with pytest.raises(UserError, match=said):
        check_archive(hostile(tmp_path / "x.nemo", config, kind=kind))
