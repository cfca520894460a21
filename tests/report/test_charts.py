from __future__ import annotations

import itertools
import math
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib import colormaps
from matplotlib.colors import to_rgb
from scipy import stats

from lit_sdpo.report.charts.chart import Chart, Table, svg
from lit_sdpo.report.charts.draw.bars import grouped_bars
from lit_sdpo.report.charts.draw.heat import ON_DARK, ON_LIGHT, heat_maps
from lit_sdpo.report.charts.draw.lines import Stage, by_stage, over_steps
from lit_sdpo.report.charts.draw.phase import Panel, Spot, phase_diagram
from lit_sdpo.report.charts.draw.scatter import against_distance, against_number
from lit_sdpo.report.charts.draw.violins import MOST_DOTS, violins
from lit_sdpo.report.charts.numbers import ANY, over_seeds, quadratic_fit, seed_range, smooth
from lit_sdpo.report.charts.style import INK, METHODS, PAGE, QUIET, VARIABLES, looks, luminance

THEMES = ("light", "dark")
# Machado, Oliveira and Fernandes (2009), severity 1, on linear RGB.
VISION = {
    "normal": np.eye(3),
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}
TO_XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def contrast(one, other):
    a, b = sorted(luminance(to_rgb(c)) for c in (one, other))
    return (b + 0.05) / (a + 0.05)


def lab(colour, vision):
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    x, y, z = TO_XYZ @ np.clip(np.array(vision) @ linear, 0, 1) / np.array([0.9505, 1.0, 1.089])
    f = [np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z)]
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("theme", THEMES)
def test_colours_stand_out_from_the_page(theme):
    page = getattr(PAGE, theme)
    assert all(contrast(getattr(colour, theme), page) >= 3 for colour in METHODS)
    assert contrast(getattr(INK, theme), page) >= 7
    assert contrast(getattr(QUIET, theme), page) >= 4.5
    assert all(
        contrast(getattr(INK, theme), getattr(VARIABLES[v], theme)) >= 7 for v in ("--holds", "--fails", "--open")
    )


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("vision", VISION)
def test_methods_stay_apart_for_colour_blind_readers(theme, vision):
    seen = [lab(getattr(colour, theme), VISION[vision]) for colour in METHODS]
    assert min(np.linalg.norm(a - b) for a, b in itertools.combinations(seen, 2)) > 20


def test_every_method_has_its_own_look():
    assert len(set(looks([str(i) for i in range(140)]).values())) == 140


def test_numbers_in_cells_can_be_read_on_every_colour():
    for share in np.linspace(0, 1, 101):
        cell = colormaps["cividis"](share)[:3]
        ink = ON_DARK if luminance(cell) < 0.18 else ON_LIGHT
        assert contrast(ink, cell) >= 4.2


def test_mean_and_interval_over_seeds_are_those_of_student():
    values = np.array([[0.1, 1.0, math.nan], [0.4, math.nan, math.nan], [0.5, 2.0, math.nan], [0.9, 4.0, math.nan]])
    mean, low, high, count = over_seeds(values)
    for k, n in ((0, 4), (1, 3)):
        known = values[np.isfinite(values[:, k]), k]
        expected = stats.t.interval(0.95, n - 1, known.mean(), stats.sem(known))
        assert high[k] - low[k] == pytest.approx(expected[1] - expected[0], rel=5e-3)
        assert (mean[k], count[k]) == (pytest.approx(known.mean()), n)
    assert (np.isnan(mean[2]), count[2]) == (True, 0)
    assert np.isnan(over_seeds([[1.0], [2.0]])[1]).all()
    assert [x[0] for x in seed_range(values[:, :1])] == [0.1, 0.9]


def test_smoothing_has_no_bias_and_begins_anew_with_a_stage():
    weights = np.array([0.64, 0.8, 1.0])
    values = np.array([3.0, 1.0, 2.0])
    assert smooth(values)[2] == pytest.approx((weights * values).sum() / weights.sum())
    assert smooth([3.0, 1.0, math.nan, 2.0], starts=[2])[2:].tolist() == [pytest.approx(math.nan, nan_ok=True), 2.0]


def test_the_fit_and_its_band_are_those_of_least_squares():
    generator = np.random.default_rng(0)
    x = generator.random(12)
    y = 1 + x - 2 * x**2 + 0.1 * generator.normal(size=12)
    weights, covariance = np.polyfit(x, y, 2, cov=True)
    at = np.array([0.1, 0.7])
    design = np.vander(at, 3)
    half = stats.t.ppf(0.975, 9) * np.sqrt(np.einsum("ij,jk,ik->i", design, covariance, design))
    line, low, high = quadratic_fit(x, y, at)
    np.testing.assert_allclose(line, design @ weights, rtol=1e-6)
    np.testing.assert_allclose(high - line, half, rtol=1e-4)
    np.testing.assert_allclose(line - low, half, rtol=1e-4)
    assert quadratic_fit(x[:4], y[:4], at) is None
    assert quadratic_fit([0, 0, 0, 1, 1, 1], range(6), at) is None


def draw():
    """One figure of every kind."""
    methods = looks(["grpo", "sdpo", "_hidden"])
    seeds = np.array([[0.0, 1.0, 4.0], [0.0, 2.0, 2.0], [0.0, 3.0, 3.0]])
    curves = {method: (range(3), seeds + i) for i, method in enumerate(methods)}
    stages = [Stage(0, "math"), Stage(2, "code")]
    spots = {
        ("1e-4", "near"): Spot("replicates", 0.5, 0.1, 0.9, 3),
        ("1e-3", "far"): Spot("does not", -1.0, -2.0, 0.0, 1),
    }
    nothing = math.nan, math.nan
    points = {"grpo": (np.arange(6.0), np.arange(6.0) ** 2)}
    return {
        "stage": by_stage({"tasks": ("change (points)", curves, ANY)}, ["base", "1\nmath", "2\ncode"], methods),
        "steps": over_steps({"rollout/entropy": curves}, stages, methods, smoothed=True),
        "bars": grouped_bars({"grpo": seeds, "sdpo": seeds - 2}, ["a", "b", "c"], "change (points)", methods),
        "heat": heat_maps([("grpo", seeds, [["x"] * 3] * 3)], ["r"] * 3, ["c"] * 3, limits=(0, 4), framed=[(1, 0)]),
        "scatter": against_distance({"gain": points}, "distance", "gain (percent)", methods),
        "numbers": against_number(
            {
                "kept\n(points)": {
                    "grpo": ((3.0, 2.0, 5.0), (1.0, 0.5, 1.5)),
                    "sdpo": ((4.0, *nothing), (2.0, *nothing)),
                }
            },
            "steps",
            methods,
        ),
        "violins": violins({"grpo": [[0.1, 0.2, 0.3, 0.5], [0.4]]}, ["base", "1"], 0.2, "cosine", methods),
        "phase": phase_diagram([Panel("C1", ["1e-4", "1e-3"], ["near", "far"], spots)], xlabel="rate", ylabel="world"),
    }


@pytest.fixture(scope="module")
def figures():
    return draw()


def words(figure):
    found = {text.get_text() for axes in figure.axes for text in axes.texts}
    return found | {text.get_text() for legend in figure.legends for text in legend.get_texts()}


def test_drawings_have_their_numbers_labels_and_legends(figures):
    line = figures["stage"].axes[0].lines[1]
    assert line.get_ydata().tolist() == [0.0, 2.0, 3.0]
    assert figures["stage"].axes[0].get_ylabel() == "change (points)"
    assert {"grpo", "sdpo", " _hidden"} <= words(figures["stage"])
    assert {"math", "code"} <= words(figures["steps"])
    assert "nats per token" in figures["steps"].axes[0].get_ylabel()
    assert [bar.get_height() for bar in figures["bars"].axes[0].patches] == [0.0, 2.0, 3.0, -2.0, 0.0, 1.0]
    assert {"✔ 0.5", "[0.1, 0.9]\n3 seeds", "✘ -1", "[-2, 0]\n1 seed", "not run", "? undecided"} <= words(
        figures["phase"]
    )
    median = [line.get_ydata()[0] for line in figures["violins"].axes[0].lines if len(line.get_ydata()) == 2]
    assert median[:2] == [pytest.approx(0.25), 0.4]


def test_dots_of_a_violin_end_where_they_would_hide_it():
    look = looks(["grpo"])
    for count, dots in ((MOST_DOTS, MOST_DOTS), (MOST_DOTS + 1, 1)):
        axes = violins({"grpo": [np.linspace(0, 1, count)]}, ["1"], None, "cosine", look).axes[0]
        drawn = [line.get_ydata() for line in axes.lines if line.get_marker() == look["grpo"].marker]
        assert (len(axes.collections), [len(y) for y in drawn]) == (1, [dots])
    assert drawn[0].tolist() == [pytest.approx(0.5)]


def test_legends_never_cover_a_panel(figures):
    for figure in figures.values():
        figure.draw_without_rendering()
        for legend in figure.legends:
            below = legend.get_window_extent().y1
            assert all(axes.get_tightbbox().y0 >= below - 1 for axes in figure.axes if axes.get_visible())


@pytest.mark.parametrize("name", ["stage", "steps", "bars", "heat", "scatter", "numbers", "violins", "phase"])
def test_a_drawing_stands_in_a_page_with_others(figures, name):
    text = svg(figures[name], name, 'a < b "quoted"')
    assert "http" not in text
    assert "<metadata" not in text
    root = ElementTree.fromstring(text.replace("<svg", '<svg xmlns:xlink="x"', 1))
    assert root.get("aria-label") == 'a < b "quoted"'
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(each.startswith(f"{name}-") for each in ids)
    references = set(re.findall(r'(?:href="|url\()#([^")]+)', text))
    assert references <= set(ids)
    assert "var(--ink)" in text
    assert not any(theme.light in text for theme in VARIABLES.values())


def test_the_same_numbers_give_the_same_bytes_in_any_order():
    first, again = draw(), draw()
    for name in ("steps", "bars", "phase"):
        one, other = (Chart(name, "", "", "", "", Table([], []), found[name]) for found in (first, again))
        pictures = one.svg, one.png()
        assert (other.png(), other.svg) == pictures[::-1]
        assert pictures[1].startswith(b"\x89PNG")


def test_a_file_of_its_own_follows_the_theme(figures):
    text = Chart("bars", "t", "found", "c", "a", Table([], []), figures["bars"]).standalone_svg()
    root = ElementTree.fromstring(text)
    assert root.get("aria-label") == "a found"
    assert "prefers-color-scheme:dark" in text
    assert "--method-0:#0a4cb3" in text
