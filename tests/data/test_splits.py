"""Splits: disjoint, the same for ever, never empty when they need not be."""

import pytest

from parakeet_ft.data.manifest import Utterance, stream_manifest
from parakeet_ft.data.splits import (
    SplitRules,
    check_named,
    fraction,
    pin_empty_splits,
    pin_overfull_splits,
    split_manifests,
    split_of,
)
from parakeet_ft.errors import UserError

MANY = {f"speaker{i}": 60.0 for i in range(2000)}


def splits(groups, rules):
    pins = pin_empty_splits(groups, rules=rules)
    return {group: pins.get(group) or split_of(group, rules=rules) for group in groups}


def test_shares_are_about_what_was_asked_for():
    found = list(splits(MANY, SplitRules(dev_share=0.1, test_share=0.2)).values())
    assert (
        abs(found.count("dev") / 2000 - 0.1) < 0.02 and abs(found.count("test") / 2000 - 0.2) < 0.02
    )


def test_adding_data_moves_nothing():
    rules = SplitRules()
    some = splits(dict(list(MANY.items())[:1000]), rules)
    assert some.items() <= splits(MANY, rules).items()


def test_changing_one_share_leaves_the_other_split():
    before, after = splits(MANY, SplitRules()), splits(MANY, SplitRules(test_share=0.2))
    assert [g for g in MANY if before[g] == "dev"] == [g for g in MANY if after[g] == "dev"]
    assert {g for g in MANY if before[g] == "test"} < {g for g in MANY if after[g] == "test"}


def test_the_hash_is_the_same_on_every_machine():
    assert fraction("ann") == pytest.approx(0.922233793078713)


@pytest.mark.parametrize("count", [3, 4, 5, 8])
def test_few_speakers_fill_every_split_with_one_and_train_with_the_rest(count):
    found = splits(
        {f"s{i}": 100.0 + i for i in range(count)}, SplitRules(dev_share=1e-6, test_share=1e-6)
    )
    assert sorted(found.values()) == ["dev", "test"] + ["train"] * (count - 2)


def test_the_speaker_nearest_to_the_share_is_held_out():
    found = splits(
        {"s1": 1000.0, "s2": 10.0, "s3": 100.0, "s4": 890.0},
        SplitRules(dev_share=0.0, test_share=0.04),
    )
    assert found == {"s1": "train", "s2": "train", "s3": "test", "s4": "train"}


def test_two_speakers_leave_dev_empty_rather_than_train():
    assert sorted(
        splits({"a": 1.0, "b": 2.0}, SplitRules(dev_share=1e-9, test_share=1e-9)).values()
    ) == ["test", "train"]


def test_train_is_not_left_empty():
    rules = SplitRules(dev_share=0.49, test_share=0.5)
    groups = {name: 1.0 for name in MANY if split_of(name, rules=rules) != "train"}
    few = dict(list(groups.items())[:4])
    assert "train" in splits(few, rules).values()


def test_named_speakers_win_over_the_hash():
    found = splits(MANY, SplitRules(test_groups=("speaker1", "speaker2"), dev_share=0.1))
    assert {g for g in found if found[g] == "test"} == {
        "speaker1",
        "speaker2",
    } and "dev" in found.values()


def test_a_manifest_is_split_by_sentence_but_for_the_speakers_who_are_named(tmp_path):
    rows = [
        Utterance(
            f"{i}.wav", 1.0, f"number {i // 2}" if i else "ann", speaker=("bob", "ann")[i % 2]
        )
        for i in range(80)
    ]
    (tmp_path / "all.jsonl").write_text("".join(f"{row.to_json()}\n" for row in rows))
    rules = SplitRules(dev_share=0.3, test_share=0.1, test_groups=("ann",))
    found = split_manifests(
        [tmp_path / "all.jsonl"], out=tmp_path / "out", rules=rules, split_by="sentence"
    )
    speakers = {
        split: {u.speaker for u in stream_manifest(tmp_path / "out" / f"{split}.jsonl")}
        for split in found
    }
    assert speakers == {"train": {"bob"}, "dev": {"bob"}, "test": {"ann"}}


def test_what_was_pinned_stays_pinned():
    rules = SplitRules(pinned=(("speaker5", "test"),), test_share=0.0)
    assert split_of("speaker5", rules=rules) == "test"


def test_impossible_rules_are_refused():
    with pytest.raises(UserError, match="sum is below 1"):
        SplitRules(dev_share=0.5, test_share=0.5)
    with pytest.raises(UserError, match="ann is named for dev and for test"):
        SplitRules(dev_groups=("ann",), test_groups=("ann",))
    with pytest.raises(UserError, match="No utterance of bob; the data has ann, cleo"):
        check_named(["cleo", "ann"], rules=SplitRules(test_groups=("bob", "ann")))


@pytest.mark.parametrize(
    "shares", [(float("nan"), 0.1), (0.1, float("nan")), (-0.1, 0.1), (float("inf"), 0)]
)
def test_shares_that_are_none_are_refused(shares):
    with pytest.raises(UserError, match="sum is below 1"):
        SplitRules(dev_share=shares[0], test_share=shares[1])


def test_a_speaker_of_half_the_hours_is_not_held_out_where_a_smaller_one_is_there():
    rules = SplitRules(test_share=0.0, dev_share=0.05)
    large = next(g for g in MANY if split_of(g, rules=rules) == "dev")
    small = [g for g in MANY if split_of(g, rules=rules) == "train"][:3]
    groups = {large: 1000.0, small[0]: 80.0, small[1]: 400.0, small[2]: 400.0}
    pins = pin_overfull_splits(groups, rules=rules)
    assert pins == {large: "train", small[0]: "dev"}


def test_the_hash_stands_where_there_are_many_speakers():
    assert pin_overfull_splits(MANY, rules=SplitRules()) == {}
