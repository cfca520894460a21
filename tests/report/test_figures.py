from __future__ import annotations

import math

import pytest
from matplotlib.patches import Rectangle

from lit_sdpo.report.figures import accuracy_by_stage, heat_map
from lit_sdpo.report.tables import Matrix, MatrixRow


def drawn(matrix):
    axes = heat_map(matrix, title="accuracy").axes[0]
    return axes, [text.get_text() for text in axes.texts]


def test_every_cell_has_its_number_and_every_axis_its_names():
    rows = [MatrixRow(0, "base", 0, {"a": 0.1, "p": 0.9}), MatrixRow(1, "a", 5, {"a": 0.8, "p": math.nan})]
    axes, texts = drawn(Matrix(["a"], ["p"], rows))
    assert texts == [".10", ".90", ".80", "-"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "p"]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["base", "1 a"]
    frames = {(round(p.get_x() + 0.47), round(p.get_y() + 0.47)) for p in axes.patches if isinstance(p, Rectangle)}
    assert frames == {(0, 1)}
    assert axes.images[0].get_clim() == (0.0, 1.0)


@pytest.mark.parametrize("scores", [[20.0, 80.0], [-1.0, 0.5], [5.0, 5.0]])
def test_other_scales_take_the_range_of_the_scores(scores):
    rows = [MatrixRow(i, "a" if i else "base", i, {"a": score}) for i, score in enumerate(scores)]
    axes, _ = drawn(Matrix(["a"], [], rows))
    low, high = axes.images[0].get_clim()
    assert low == min(scores)
    assert high == pytest.approx(max(scores))
    assert high > low


def test_the_least_loss_is_the_brightest_of_its_column():
    rows = [MatrixRow(i, "a" if i else "base", i, {"a": 0.4, "x": x, "y": 7.0}) for i, x in enumerate((2.0, 3.0, 2.5))]
    axes, texts = drawn(Matrix(["a"], ["x", "y"], rows, ["x", "y"]))
    assert texts[:3] == [".40", "2.00", "7.00"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "x (loss)", "y (loss)"]
    assert axes.images[0].get_clim() == (0.0, 1.0)
    assert axes.images[0].get_array().tolist() == [[0.4, 1.0, 0.5], [0.4, 0.0, 0.5], [0.4, 0.5, 0.5]]


def test_a_matrix_without_any_score_can_be_drawn():
    _, texts = drawn(Matrix(["a"], [], [MatrixRow(0, "base", 0)]))
    assert texts == ["-"]


CARD = 300  # pixels of a picture in TensorBoard


def test_numbers_are_legible_in_a_card():
    names = ["math", "sci", "tool", "code"]
    rows = [
        MatrixRow(i, name, i, dict.fromkeys([*names, *(f"{n}_ood" for n in names)], 0.5))
        for i, name in enumerate(names)
    ]
    figure = heat_map(Matrix(names, [f"{n}_ood" for n in names], rows))
    points_to_pixels = CARD / (72 * figure.get_figwidth())
    assert min(text.get_fontsize() for text in figure.axes[0].texts) * points_to_pixels > 9


def test_every_task_has_a_line_a_colour_and_a_name_of_its_own():
    rows = [
        MatrixRow(i, "ab"[i - 1] if i else "base", i, {"a": 0.1 * i, "b": 0.2, "p": 0.9, "x": 4.0}) for i in range(3)
    ]
    figure = accuracy_by_stage(Matrix(["a", "b"], ["p", "x"], rows, ["x"]))
    (axes,) = figure.axes
    assert [line.get_label() for line in axes.lines] == ["a", "b", "p"]
    assert len({line.get_color() for line in axes.lines}) == 3
    assert [line.get_linestyle() for line in axes.lines] == ["-", "-", "--"]
    assert list(axes.lines[0].get_ydata()) == pytest.approx([0, 0.1, 0.2])
    assert [marks.get_offsets().tolist() for marks in axes.collections] == [[[1, 0.1]], [[2, 0.2]], []]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["a", "b", "p"]


def test_curves_of_a_matrix_without_rows_or_scores_can_be_drawn():
    assert accuracy_by_stage(Matrix([], [], [])).axes
    assert accuracy_by_stage(Matrix(["a"], [], [MatrixRow(0, "base", 0)])).legends


def test_a_notebook_sees_a_picture():
    rows = [MatrixRow(0, "base", 0, {"a": 0.5})]
    for draw in (heat_map, accuracy_by_stage):
        assert draw(Matrix(["a"], [], rows))._repr_png_().startswith(b"\x89PNG")
