"""What a run prints fits a terminal of 80 columns."""

import io
from pathlib import Path

from parakeet_ft.run.columns import COLUMNS, candidate_lines, fitted, wrapped
from parakeet_ft.run.console import Narrator, data_line, optimizer_lines


def printed(lines):
    said = io.StringIO()
    Narrator(said).lines(lines)
    return said.getvalue().splitlines()


def test_parts_of_a_line_go_on_in_the_next_where_it_is_full():
    parts = [f"part {number} of it" for number in range(9)]
    found = printed(fitted(parts))
    assert max(map(len, found)) <= COLUMNS and len(found) == 2
    assert [part.strip() for line in found for part in line.split("  ") if part] == parts
    assert fitted(["alone"]) == ["alone"] and fitted(["x" * 90]) == ["x" * 90]
    edge = ["a" * 38, "b" * 38]
    assert len(fitted(edge)) == 1 and len(fitted([edge[0], edge[1] + "b"])) == 2


def test_a_fact_is_wrapped_behind_its_name():
    found = printed(wrapped("device     " + "one of many words " * 9))
    assert max(map(len, found)) <= COLUMNS and len(found) == 3
    assert {line[:13] for line in found[1:]} == {" " * 13} and found[0].startswith("  device     o")


def test_the_table_of_the_optimiser_fits():
    group = {"lr": 1e-5, "weight_decay": 0.001, "tensors": 999, "weights": 599.9e6}
    names = ["encoder matrices", "decoder vectors"]
    rows = [group | {"name": name} for name in names]
    optimizer = {"lr": 1, "lr_reason": "given", "warmup_steps": 3, "groups": rows}
    found = printed(optimizer_lines(optimizer))
    assert len(found) == 3 and max(map(len, found)) <= COLUMNS
    assert "encoder matrices" in found[1] and "599.900 M" in found[1]


def candidate(alpha, *, refused=False, **rates):
    way = f"{alpha} of the way from the checkpoint to the last step (60000)"
    judgement = {"refused": ["guard"] if refused else []}
    return {
        "description": way,
        "val_wer": 0.125,
        "selection_score": 0.25,
        "judgement": judgement,
    } | rates


def test_the_table_of_candidates_fits_and_marks_the_winner():
    rows = [candidate(0.475, guard_wer=0.5), candidate(1, guard_wer=0.5, refused=True)]
    head, first, second = printed(candidate_lines(rows))
    assert head.split() == ["domain", "guard", "score"]
    assert first == "  -> 0.475 of the way to step 60000  12.5 %  50.0 %    0.250"
    assert second.split()[-1] == "refused" and "->" not in second


def test_with_several_guards_and_terms_the_table_of_candidates_still_fits():
    guards = {"guard_wers": {"children of the north": 0.5, "radio": 0.9}, "val_ker": 0.3}
    judgement = {"refused": [], "worst_guard": "children of the north"}
    rows = [candidate(0.475, **guards) | {"judgement": judgement}]
    rows.append(rows[0] | {"description": "the mean of the weights of steps " + "100, " * 9})
    found = printed(candidate_lines(rows))
    assert max(map(len, found)) <= COLUMNS
    assert "worst guard" in found[0] and "terms missed" in found[0] and "…" in found[2]


def test_hours_of_domain_and_replay_are_told_apart():
    a_pass = {"steps_per_pass": 9, "batch_seconds": 120, "num_ranks": 1, "hours_per_pass": 0.24}
    budget = a_pass | {"passes": 2.0, "steps": 18, "replay_ratio": 1.0}
    assert "device(s), 0.12 h of the domain + 0.12 h of replay; this" in data_line(budget)
    assert "device(s), 0.24 h of audio; this" in data_line(budget | {"replay_ratio": 0.0})


def test_the_table_at_the_end_fits_whatever_a_guard_is_called():
    rates = {"wer": 0.999, "cer": 0.999, "words": 1_000_000}
    sets = {"domain": rates, "children of the far north": rates}
    report = dict.fromkeys(("selection", "verdict", "model"), "x") | {
        "baseline": sets,
        "tuned": sets,
        "comparison": {},
        "problem": "none",
        "warnings": [],
        "notes": [],
    }
    said = io.StringIO()
    Narrator(said).finish(report, Path("run"))
    head, *rows = said.getvalue().splitlines()[:3]
    assert max(len(line.rstrip()) for line in (head, *rows)) <= COLUMNS
    assert "CER after" in head and "guard children of the…" in rows[1]
