"""ONNX exports read by onnx-asr, against the model they were made from."""

import json

import onnx
import pytest

from parakeet_ft.data.audio import read_audio
from parakeet_ft.data.manifest import read_manifest
from parakeet_ft.errors import UserError
from parakeet_ft.export.onnx import move_network, onnx_kind, onnx_recognizer, write_int8, write_onnx
from parakeet_ft.transcription.decoding import set_decoding
from parakeet_ft.transcription.long_audio import transcribe_files

FAMILIES = [
    ("ctc", "ctc"),
    ("rnnt", "transducer"),
    ("tdt", "transducer"),
    ("hybrid", "transducer"),
    ("hybrid", "ctc"),
]


@pytest.fixture(scope="module")
def paths(speech):
    return [u.audio_filepath for u in read_manifest(speech(count=4))]


@pytest.mark.parametrize("family, head", FAMILIES)
def test_onnx_asr_reads_the_same_texts_out_of_the_folder(family, head, tiny_model, paths, tmp_path):
    model = tiny_model(family)
    set_decoding(model, head=head)
    expected = [t.text for t in transcribe_files(model, paths)]
    kind = write_onnx(model, tmp_path, head=head)
    recognize = onnx_recognizer(tmp_path)
    assert [recognize(read_audio(path)).split() for path in paths] == [
        text.split() for text in expected
    ] and any(expected)
    networks = (
        {"model.onnx"} if head == "ctc" else {"encoder-model.onnx", "decoder_joint-model.onnx"}
    )
    assert {path.name for path in tmp_path.iterdir()} == networks | {"vocab.txt", "config.json"}
    assert (
        json.loads((tmp_path / "config.json").read_text())["model_type"] == f"nemo-conformer-{kind}"
    )


def test_int8_weights_are_smaller_and_loaded_by_their_own_name(tiny_model, paths, tmp_path):
    full, small = tmp_path / "full", tmp_path / "small"
    full.mkdir()
    small.mkdir()
    write_onnx(tiny_model("ctc"), full, head="ctc")
    write_int8(full, small)
    assert {path.name for path in small.iterdir()} == {
        "model.int8.onnx",
        "vocab.txt",
        "config.json",
    }
    kinds = [node.op_type for node in onnx.load(str(small / "model.int8.onnx")).graph.node]
    assert (
        kinds.count("MatMulInteger") > 10
        and (small / "model.int8.onnx").stat().st_size < (full / "model.onnx").stat().st_size
    )
    assert isinstance(onnx_recognizer(small, int8=True)(read_audio(paths[0])), str)


def test_a_ctc_network_names_what_sherpa_onnx_asks_for(tiny_model, tmp_path):
    model = tiny_model("ctc")
    write_onnx(model, tmp_path, head="ctc")
    network = onnx.load(str(tmp_path / "model.onnx"), load_external_data=False)
    facts = {entry.key: entry.value for entry in network.metadata_props}
    pieces = len((tmp_path / "vocab.txt").read_text().splitlines())
    assert facts["vocab_size"] == str(pieces) and facts["normalize_type"] == "per_feature"
    assert facts["subsampling_factor"] == str(model.encoder.subsampling_factor)
    small = tmp_path / "int8"
    small.mkdir()
    write_int8(tmp_path, small)
    kept = onnx.load(str(small / "model.int8.onnx")).metadata_props
    assert facts.items() <= {entry.key: entry.value for entry in kept}.items()


def test_a_large_networks_weights_are_one_file_that_onnx_asr_finds(tiny_model, paths, tmp_path):
    whole, loose, gathered = (tmp_path / name for name in ("whole", "loose", "gathered"))
    for folder in (whole, loose, gathered):
        folder.mkdir()
    write_onnx(tiny_model("ctc"), whole, head="ctc")
    # What PyTorch leaves of a network of more than 2 GiB: a file for each tensor.
    onnx.save_model(
        onnx.load(str(whole / "model.onnx")),
        str(loose / "model.onnx"),
        save_as_external_data=True,
        all_tensors_to_one_file=False,
        size_threshold=0,
    )
    assert len(list(loose.iterdir())) > 20
    move_network(loose / "model.onnx", gathered / "model.onnx", max_bytes=1000)
    assert sorted(path.name for path in gathered.iterdir()) == ["model.onnx", "model.onnx.data"]
    loaded = onnx.load(str(gathered / "model.onnx"), load_external_data=False).graph.initializer
    large = [tensor for tensor in loaded if tensor.data_location == onnx.TensorProto.EXTERNAL]
    assert len(large) > 10 and (gathered / "model.onnx.data").stat().st_size > 500_000
    for name in ("vocab.txt", "config.json"):
        (gathered / name).write_bytes((whole / name).read_bytes())
    assert [onnx_recognizer(gathered)(read_audio(path)) for path in paths] == [
        onnx_recognizer(whole)(read_audio(path)) for path in paths
    ]


def test_durations_that_onnx_asr_cannot_hold_are_refused(tiny_model):
    with pytest.raises(UserError, match=r"\[0, 1, 2, 4\]"):
        onnx_kind(tiny_model("tdt", durations=(0, 1, 2, 4)).cfg, head="transducer")
    hybrid = tiny_model("hybrid", durations=(0, 2)).cfg
    with pytest.raises(UserError, match="--head ctc"):
        onnx_kind(hybrid, head="transducer")
    assert onnx_kind(hybrid, head="ctc") == "ctc"


def test_features_that_onnx_asr_does_not_compute_are_refused(tiny_model):
    with pytest.raises(UserError, match="features 40"):
        onnx_kind(tiny_model("ctc", n_mels=40).cfg, head="ctc")
