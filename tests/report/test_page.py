"""The page of a run: charts, examples, and what stands there while the run goes on."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas
import pytest
import torch
from safetensors.torch import load_file

import hfft
from hfft.callbacks import live_report
from hfft.evaluation.label_errors import suspected_label_errors
from hfft.report import charts
from hfft.report.charts import Line
from hfft.running import gathering
from tests.conftest import make_sentences, write_csv

EVIL = "<script>alert(1)</script>"


def drawn(markup: Any) -> ElementTree.Element:
    return ElementTree.fromstring(str(markup).partition("<p class")[0])


def test_a_line_goes_through_its_points_and_marks_stand_where_they_are():
    svg = drawn(charts.line_chart([Line("loss", [(0, 1.0), (1, 0.5), (2, float("nan")), (4, 0.0)])], x_label="epoch",
                                  y_label="loss", marks=[(2, EVIL), (9, "beyond")]))  # fmt: skip
    (line,) = svg.iter("polyline")
    points = [tuple(map(float, point.split(","))) for point in line.attrib["points"].split()]
    assert len(points) == 3  # what is no number is no point
    (x0, y0), (x1, y1), (x4, y4) = points
    assert x1 - x0 == pytest.approx((x4 - x0) / 4, abs=0.1)
    assert y1 - y0 == pytest.approx(y4 - y1, abs=0.1)
    (mark,) = (each for each in svg.iter("line") if each.attrib["class"] == "mark")
    assert float(mark.attrib["x1"]) == pytest.approx((x0 + x4) / 2, abs=0.1)
    assert mark.findtext("title") == EVIL


def test_a_heat_map_leaves_out_what_is_nothing_and_escapes_names():
    names = [EVIL, "b"]
    told = lambda row, column: f"{row + column} {names[row]} {names[column]}"  # noqa: E731
    svg = drawn(charts.heat_map(names, names, [[1.0, None], [0.25, 0.75]], told=told, title="t", shown=True))
    cells = list(svg.iter("rect"))
    assert [cell.attrib["style"] for cell in cells] == ["--v:1.000", "--v:0.250", "--v:0.750"]
    assert cells[0].findtext("title") == f"0 {EVIL} {EVIL}"
    assert [text.text for text in svg.iter("text") if "middle" in text.attrib["class"]][:3] == ["0", "1", "2"]


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (0.123, 0.129), (-5.0, 12000.0), (2.0, 2.0)])
def test_ticks_are_few_and_within_the_scale(low, high):
    ticks = charts._Scale(low, high, 0, 100).ticks()
    assert 1 <= len(ticks) <= 7
    assert all(low - 1e-9 <= tick <= high + 1e-9 for tick in ticks)


def test_suspected_labels_are_those_that_were_changed():
    generator = np.random.default_rng(0)
    truth = generator.integers(0, 3, 300)
    logits = generator.normal(size=(300, 3)) + 4 * np.eye(3)[truth]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    labels, changed = truth.copy(), np.arange(0, 300, 20)
    labels[changed] = (truth[changed] + 1) % 3
    suspects = suspected_label_errors(labels, probabilities)
    assert len(set(suspects[:12]) & set(changed)) >= 11
    assert len(suspected_label_errors(truth, probabilities)) < len(suspects)


def test_a_class_without_examples_suspects_nobody():
    probabilities = np.array([[0.1, 0.9], [0.2, 0.8]])
    assert suspected_label_errors(np.array([0, 0]), probabilities).tolist() == []


@pytest.fixture(scope="module")
def run(tiny_bert, tmp_path_factory) -> hfft.FineTuneResult:
    """Unfreezing layer by layer, on texts and a class that are HTML; what stood in the page after each log."""
    folder = tmp_path_factory.mktemp("run")
    rows = [(f"{EVIL} {text}", EVIL if name == "animal" else name) for text, name in make_sentences(36, 1)]
    write_csv(folder / "data" / "train.csv", rows)
    write_csv(
        folder / "data" / "test.csv",
        [(f"<b>{text}</b>", rows[i][1]) for i, (text, _) in enumerate(make_sentences(15, 2))],
    )
    pages: list[str] = []
    write = gathering.write_report

    def kept(record: Any, out: Path) -> Path:
        path = write(record, out)
        pages.append(path.read_text("utf-8"))
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gathering, "write_report", kept)
        patch.setattr(live_report, "PAUSE", 0.0)
        result = hfft.finetune(
            model=str(tiny_bert), data=str(folder / "data"), output_dir=str(folder / "out"), strategy="gradual", seed=3,
            num_train_epochs=4, per_device_train_batch_size=8, learning_rate=1e-2, disable_tqdm=True,
        )  # fmt: skip
    result.pages = pages  # type: ignore[attr-defined]
    return result


def test_the_page_shows_progress_while_the_run_goes_on(run):
    first, *_, last = run.pages
    assert "epoch 0 of 4" in first
    assert "epoch 4 of 4" in last
    assert all('http-equiv="refresh"' in page and "goes on" in page for page in run.pages)
    assert last.count("<polyline") == 3  # both losses and accuracy
    done = (Path(run.output_dir) / "report.html").read_text("utf-8")
    assert "http-equiv" not in done
    assert f"{run.metrics['test_accuracy']:.4f}" in done


def test_what_users_wrote_is_text_on_the_page(run):
    page = (Path(run.output_dir) / "report.html").read_text("utf-8")
    assert "<script" not in page
    assert "<b>this is" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert not re.search(r"(src|href)=[\"'](?!#|data:image/jpeg)", page)
    assert len(page) < 3_000_000


def test_thaws_rates_and_distances_are_those_of_the_run(run, tiny_bert):
    record = run.record
    assert list(record.thaws)[-1] == "head"
    assert record.thaws["head"] == 0
    assert sorted(record.thaws.values(), reverse=True) == list(record.thaws.values())
    page = (Path(run.output_dir) / "report.html").read_text("utf-8")
    assert page.count(" thaws</title>") == 2 * (len(record.thaws) - 1)  # on both charts
    before, after = load_file(tiny_bert / "model.safetensors"), load_file(Path(run.output_dir) / "model.safetensors")
    name = "encoder.layer.1."
    moved = sum((after[f"bert.{key}"] - before[key]).double().square().sum() for key in before if key.startswith(name))
    size = sum(before[key].double().square().sum() for key in before if key.startswith(name))
    (found,) = (each["distance"] for each in record.distances if each["name"].endswith("layer.1"))
    assert found == pytest.approx(float(torch.sqrt(moved / size)), rel=1e-5)
    assert "head" not in {each["name"] for each in record.distances}


def test_mistakes_are_the_wrong_answers_the_surest_first(run):
    table = pandas.read_parquet(Path(run.output_dir) / "predictions.parquet")
    wrong = table[table["predicted"] != table["label"]]
    sure = wrong[[name for name in table.columns if name.startswith("probability_")]].max(axis=1)
    expected = wrong.loc[sure.sort_values(ascending=False, kind="stable").index]["input"].tolist()[:12]
    assert [each["input"] for each in run.record.mistakes] == expected
    assert all(each["label"] not in each["answer"] for each in run.record.mistakes)


def test_pictures_are_shown_small(tiny_timm, image_folder, tmp_path):
    run = hfft.finetune(model=str(tiny_timm), data=str(image_folder), output_dir=str(tmp_path / "out"),
                        strategy="full", num_train_epochs=1, seed=3, disable_tqdm=True)  # fmt: skip
    page = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert run.record.mistakes
    assert page.count('src="data:image/jpeg;base64,') == len(run.record.mistakes) + len(run.record.suspects)
