"""The picture of the choice shows every candidate where its figures put it."""

import itertools
import xml.etree.ElementTree as ET

import pytest

from parakeet_ft.report.frontier import frontier, ticks

MAY = {"guard": 0.02}


def row(gain, loss, **more):
    margins = {
        "gain_low": gain - 0.05,
        "gain_high": gain + 0.05,
        "loss_low": loss - 0.01,
        "loss_high": loss + 0.01,
    }
    description = more.pop("description", "")
    judgement = {"gain": gain, "loss": loss, "refused": False} | margins | more
    return {"weights": "w", "description": description, "judgement": judgement}


def candidates_of(svg):
    found = []
    for group in ET.fromstring(svg):
        if group.tag != "g":
            continue
        name, across, along, mark = group
        middle = [(float(line.get("x1")) + float(line.get("x2"))) / 2 for line in (across, along)]
        height = [(float(line.get("y1")) + float(line.get("y2"))) / 2 for line in (across, along)]
        assert middle[0] == pytest.approx(middle[1], abs=0.2), "intervals cross in the point"
        assert height[0] == pytest.approx(height[1], abs=0.2)
        found.append((group.get("class").split()[1], name.text, middle[0], height[0], mark.tag))
    return found


def test_more_forgotten_is_right_more_gained_is_up_and_the_chosen_is_a_diamond():
    rows = [
        row(0.5, 0.004, description="<chosen> & good"),
        row(0.7, 0.03, refused=True, description="too much"),
        row(0.2, 0.0, description="little"),
    ]
    found = {name: rest for kind, name, *rest in candidates_of(frontier(rows, tolerances=MAY))}
    kinds = {name: kind for kind, name, *_ in candidates_of(frontier(rows, tolerances=MAY))}
    assert kinds == {"<chosen> & good": "chosen", "too much": "refused", "little": "kept"}
    assert found["little"][0] < found["<chosen> & good"][0] < found["too much"][0]
    assert found["little"][1] > found["<chosen> & good"][1] > found["too much"][1]
    assert found["<chosen> & good"][2] == "path" and found["little"][2] == "circle"


def test_the_tolerance_stands_between_what_is_below_and_above_it():
    svg = frontier([row(0.5, 0.01), row(0.5, 0.03)], tolerances=MAY)
    line = next(e for e in ET.fromstring(svg) if e.get("class") == "guard baseline")
    (_, _, right, *_), (_, _, left, *_) = candidates_of(svg)
    assert left < float(line.get("x1")) < right
    assert "tolerated" not in frontier([row(0.5, 0.01)], tolerances={"guard": None})


def test_of_several_guards_each_candidate_names_its_worst_and_their_tolerances_stand_apart():
    rows = [
        row(0.5, 0.01, worst_guard="kids", description="chosen"),
        row(0.6, 0.04, worst_guard="radio", description="other"),
    ]
    svg = frontier(rows, tolerances={"kids": 0.02, "radio": 0.05, "quiet": 0.1})
    names = [name for _, name, *_ in candidates_of(svg)]
    assert names == ["other; worst guard: radio", "chosen; worst guard: kids"]
    labels = [e.text for e in ET.fromstring(svg) if e.get("class") == "guard"]
    assert labels == ["tolerated of kids", "tolerated of radio"], "quiet decided nothing"
    first, second = (
        float(e.get("x1")) for e in ET.fromstring(svg) if e.get("class") == "guard baseline"
    )
    assert first < second


def test_the_axes_fit_the_points_and_say_where_they_begin():
    near = [row(gain, 0.01) for gain in (0.65, 0.68, 0.72)]
    svg = frontier(near, tolerances=MAY)
    heights = [height for _, _, _, height, _ in candidates_of(svg)]
    assert max(heights) - min(heights) > 80, "7 points are told apart"
    shares = [e.text for e in ET.fromstring(svg) if e.get("text-anchor") == "end" and "%" in e.text]
    assert shares == ["60 %", "65 %", "70 %", "75 %"]
    assert "domain errors removed (the axis begins at 59 %)" in svg


def test_what_lies_far_outside_stays_in_the_picture():
    near, far = row(0.4, 0.01), row(-7.0, 2.0, gain_low=-9, loss_high=3)
    svg = ET.fromstring(frontier([near, far], tolerances=MAY))
    lines = [line for line in svg.iter() if line.tag == "line"]
    assert all(0 <= float(line.get(x)) <= 540 for line in lines for x in ("x1", "x2"))
    assert all(0 <= float(line.get(y)) <= 320 for line in lines for y in ("y1", "y2"))
    across = [line for line in lines if line.get("y1") == line.get("y2") and not line.get("class")]
    widths = sorted(float(line.get("x2")) - float(line.get("x1")) for line in across)
    assert widths[-1] > 40, "the near one's interval can be seen"


def test_without_a_guard_there_is_no_picture():
    alone = {"weights": "w", "judgement": {"gain": 0.3, "loss": None}}
    assert frontier([alone], tolerances=MAY) == ""
    assert frontier([{"weights": "w", "val_wer": 0.3}], tolerances={"guard": None}) == ""


@pytest.mark.parametrize(
    ("low", "high"), [(-0.011, 0.047), (0.0, 0.05), (-1.0, 1.0), (-0.3, 2.9), (0, 0.0051)]
)
def test_ticks_are_few_round_and_inside(low, high):
    found = ticks(low, high)
    assert 3 <= len(found) <= 7
    assert all(low <= tick <= high for tick in found)
    steps = {round(b - a, 9) for a, b in itertools.pairwise(found)}
    assert len(steps) == 1 and f"{steps.pop():e}"[0] in "125"
