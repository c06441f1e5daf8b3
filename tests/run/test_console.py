"""What a run prints fits a terminal of 80 columns."""

import io

from parakeet_ft.run.console import COLUMNS, Narrator, fitted, optimizer_lines, wrapped


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
