from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from hfft.tasks import ImageClassification, TextClassification
from PIL import Image

import hfft
from hfft.checking import check
from hfft.cli import main
from tests.conftest import make_sentences, write_csv, write_picture


def found(result: Any, check: str) -> list[Any]:
    return [finding for finding in result.findings.items if finding.check == check]


def test_good_data_goes_ahead(text_folder: Path, tmp_path: Path, capsys):
    report = tmp_path / "report.json"
    assert main(["check", "--data", str(text_folder), "--output", str(report)]) == 0
    assert "A run would go ahead: " in capsys.readouterr().out
    told = json.loads(report.read_text())
    assert told["refused"] is False
    assert told["task"] == "text-classification"
    assert told["columns"] == {"text": "text", "label": "label"}
    assert sum(sum(counts.values()) for counts in told["splits"].values()) == 36 + 15 - len(told["left_out"])


def test_bad_data_is_refused_with_everything_that_was_found(tmp_path: Path, capsys):
    rows = [*make_sentences(12, 1), ("", "animal"), ("a text", ""), ("fine", "Animals")]
    path, report = write_csv(tmp_path / "t.csv", rows), tmp_path / "report.json"
    assert main(["check", "--data", str(path), "--output", str(report)]) == 1
    out = capsys.readouterr().out
    assert "A run would refuse this data." in out
    told = json.loads(report.read_text())
    assert told["refused"] is True
    assert {(f["check"], f["severity"]) for f in told["findings"]} >= {
        ("unusable input", "error"),
        ("missing label", "error"),
        ("look-alike classes", "warning"),
    }
    by_check = {f["check"]: f for f in told["findings"]}
    assert by_check["unusable input"]["offenders"] == [{"reference": "row 13", "reason": "the text is empty"}]
    assert by_check["missing label"]["offenders"] == [{"reference": "row 14", "reason": "no label"}]
    for finding in told["findings"]:
        assert finding["message"].partition("\n")[0] in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--data {tmp}/nowhere", "--data: there is no file or folder"),
        ("--data {data} --task text-clasification", "Did you mean 'text-classification'?"),
        ("--data {data} --text_column txt", "--text_column: there is no column 'txt'"),
        ("--data {data} --label_column labl", "--label_column: there is no column 'labl'"),
        ("--data {data} --test_size 2", "test_size must be more than 0 and at most 0.9"),
        ("--data {data} --test_size much", "--test_size"),
        ("--data {data} --on_problem ignore", "on_problem must be one of"),
        ("--data {data} --model {tmp}/nowhere", "--model: there is no file or folder"),
        ("--data {data} --output {tmp}/report.html", "must end in .json"),
        ("--data {data} --outptu x.json", "Did you mean '--output'?"),
        ("", "--data"),
    ],
)
def test_a_bad_flag_is_exit_code_2(text_folder: Path, tmp_path: Path, capsys, flags: str, message: str):
    assert main(["check", *flags.format(data=text_folder, tmp=tmp_path).split()]) == 2
    assert message in capsys.readouterr().err


def test_a_check_imports_no_torch(
    text_folder: Path, image_folder: Path, tiny_bert: Path, tiny_timm: Path, tmp_path: Path
):
    script = (
        "import sys; from hfft.cli import main\n"
        f"for data, model in ({[str(text_folder), str(tiny_bert)]}, {[str(image_folder), str(tiny_timm)]}):\n"
        f"    assert main(['check', '--data', data, '--model', model, '--cache_dir', {str(tmp_path)!r}]) == 0\n"
        "assert not {'torch', 'transformers', 'torchvision', 'timm'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, capture_output=True)


def test_the_public_function():
    result = hfft.check({"train": Dataset.from_dict({"text": ["a"], "label": ["b"]})})
    assert result.findings.refused
    assert "only one class" in result.report["findings"][0]["message"]


# a run and a check are views of one list


def test_what_a_check_refuses_a_run_refuses_with_the_first_message(tmp_path: Path, tiny_bert: Path, capsys):
    path = write_csv(tmp_path / "t.csv", [*make_sentences(12, 1), ("", "animal"), ("a text", "")])
    first = next(f for f in check(str(path)).findings.items if f.severity == "error")
    assert main(["train", "--data", str(path), "--model", str(tiny_bert), "--output_dir", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err == f"hfft: {first.message}\n"


def test_a_run_lists_what_it_left_out(tmp_path: Path, tiny_bert: Path, capsys):
    rows = make_sentences(60, 1)
    broken = [*rows[:20], ("", "animal"), *rows[20:], ("a text", "")]
    path = write_csv(tmp_path / "train.csv", broken)
    write_csv(tmp_path / "test.csv", [(rows[5][0].upper(), rows[5][1]), *make_sentences(40, 2)])
    (tmp_path / "data").mkdir()
    for file in (path, tmp_path / "test.csv"):
        file.rename(tmp_path / "data" / file.name)
    out = tmp_path / "out"
    flags = ["--data", str(tmp_path / "data"), "--on_problem", "skip", "--validation_size", "0"]
    report = tmp_path / "report.json"
    assert main(["check", *flags, "--output", str(report)]) == 0
    limits = ["--max_steps", "1", "--output_dir", str(out)]
    assert main(["train", "--model", str(tiny_bert), *flags, *limits]) == 0
    of_run = json.loads((out / "data_report.json").read_text())
    assert of_run["left_out"] == [
        {"split": "train", "reference": "row 62", "reason": "no label"},
        {"split": "train", "reference": "row 21", "reason": "the text is empty"},
        {"split": "train", "reference": "row 6", "reason": "copy of test's row 1"},
    ]
    assert of_run == json.loads(report.read_text())
    assert sum(of_run["splits"]["train"].values()) == 59


# what the model reads


def test_texts_longer_than_the_model_reads_are_counted(tiny_bert: Path, tmp_path: Path):
    rows = [*make_sentences(30, 1), ("cat " * 100, "animal"), ("dog " * 60, "animal")]
    path = write_csv(tmp_path / "t.csv", rows)
    (cut,) = found(check(str(path), model=str(tiny_bert), test_size=0.2, validation_size=0), "text length")[:1]
    assert "are longer than the 48 tokens" in cut.message
    of_all = sum(f.count for f in found(check(str(path), model=str(tiny_bert)), "text length"))
    assert of_all == 2
    assert found(check(str(path), model=str(tiny_bert), max_length=512), "text length") == []


def test_lengths_are_those_of_the_processor(tiny_bert: Path):
    from transformers import AutoTokenizer

    from hfft.arguments import ModelArguments

    splits = {"train": Dataset.from_dict({"text": ["cat " * n for n in (1, 46, 47, 90)], "reference": [1, 2, 3, 4]})}
    arguments = ModelArguments(model=str(tiny_bert))
    without = TextClassification().check_model(arguments, splits)
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    assert without == TextClassification().check_model(arguments, splits, tokenizer)
    assert [offender.reason for offender in without[0].offenders] == ["49 tokens", "92 tokens"]


def test_pictures_far_from_the_models_size_are_counted(tiny_timm: Path, tmp_path: Path):
    generator = np.random.default_rng(0)
    for index, size in enumerate([8, 15, 16, 40, 256, 300]):
        write_picture(tmp_path / "ab"[index % 2] / f"{index}.png", (90, 9, 9), generator, size)
    source = {"train": Dataset.from_dict({"image": [str(p) for p in sorted(tmp_path.rglob("*.png"))]})}
    source["train"] = source["train"].add_column("reference", source["train"]["image"][:])
    from hfft.arguments import ModelArguments

    small, large = ImageClassification().check_model(ModelArguments(model=str(tiny_timm)), source)
    assert [Path(o.reference).name for o in small.offenders] == ["0.png", "1.png"]
    assert [Path(o.reference).name for o in large.offenders] == ["5.png"]


# what was seen is remembered by content


@pytest.fixture
def looks(monkeypatch) -> list[int]:
    """Count the pictures that are decoded, and remember whatever was seen."""
    seen: list[int] = []
    original = ImageClassification.inspect

    def inspect(self: ImageClassification, example: Any) -> Any:
        seen.append(1)
        return original(self, example)

    monkeypatch.setattr(ImageClassification, "inspect", inspect)
    monkeypatch.setattr("hfft.data.inspecting._SLOW", -1.0)
    return seen


def test_unchanged_data_is_not_looked_at_again(image_folder: Path, tmp_path: Path, looks: list[int]):
    first = check(str(image_folder), cache_dir=str(tmp_path))
    assert len(looks) == 36
    assert check(str(image_folder), cache_dir=str(tmp_path)).report == first.report
    assert len(looks) == 36


@pytest.mark.parametrize("change", ["content", "rubbish"])
def test_changed_data_is_looked_at_again(tmp_path: Path, looks: list[int], change: str):
    generator = np.random.default_rng(0)
    for index in range(12):
        write_picture(tmp_path / "data" / "ab"[index % 2] / f"{index}.png", (90, 99, 99), generator)
    data, cache = str(tmp_path / "data"), tmp_path / "cache"
    check(data, cache_dir=str(cache))
    (kept,) = cache.rglob("*.npz")
    if change == "content":
        Image.effect_noise((20, 20), 50).save(tmp_path / "data" / "a" / "0.png")
    else:
        kept.write_bytes(kept.read_bytes()[:100])
    check(data, cache_dir=str(cache))
    assert len(looks) == 24


def test_another_task_looks_for_itself_and_one_of_a_notebook_each_time(
    image_folder: Path, tmp_path: Path, looks: list[int]
):
    class Own(ImageClassification):
        pass

    in_notebook = type("InNotebook", (ImageClassification,), {"__module__": "a_module_without_a_file"})
    for task in (ImageClassification(), Own(), Own(), in_notebook(), in_notebook()):
        check(str(image_folder), task=task, cache_dir=str(tmp_path))
    assert len(looks) == 4 * 36


# planted leaks


def leaky_pictures(root: Path) -> Path:
    """Write 100 test and 200 train pictures, of which 5 are test pictures as JPEGs."""
    generator = np.random.default_rng(0)
    for split, count in (("test", 100), ("train", 200)):
        for index in range(count):
            coarse = generator.integers(0, 256, size=(6, 6, 3), dtype=np.uint8)
            picture = Image.fromarray(coarse).resize((64, 48), Image.Resampling.BICUBIC)
            path = root / split / ("ant", "bee")[index % 2] / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            picture.save(path)
            if split == "test" and index < 5:
                target = root / "train" / path.parent.name / f"again{index}.jpg"
                target.parent.mkdir(parents=True, exist_ok=True)
                picture.resize((60, 45)).save(target, quality=70)
    return root


def test_five_per_cent_of_the_test_pictures_in_train_are_refused(tmp_path: Path):
    result = check(str(leaky_pictures(tmp_path)), validation_size=0)
    (leak,) = found(result, "leak into test")
    assert leak.severity == "error"
    assert sorted(Path(o.reference).stem for o in leak.offenders) == [f"again{i}" for i in range(5)]
    skipped = check(str(tmp_path), validation_size=0, on_problem="skip")
    assert skipped.sizes == {"train": 200, "test": 100}


@pytest.mark.parametrize(
    "change",
    [
        str.upper,
        lambda text: f"  {text}!!",
        lambda text: text.replace(" ", "\t "),
        lambda text: "\ufeff" + text + "\u200b",
    ],
)
def test_five_per_cent_of_the_test_texts_in_train_are_refused(change):
    generator = np.random.default_rng(0)
    words = ["".join(generator.choice(list("abcdefgh"), 5)) for _ in range(300)]
    texts = [" ".join(generator.choice(words, 8)) for _ in range(300)]
    train, test = texts[:200] + [change(text) for text in texts[200:205]], texts[200:]

    def table(rows: list[str]) -> Dataset:
        return Dataset.from_dict({"text": rows, "label": ["x" if i % 2 else "y" for i in range(len(rows))]})

    result = check(DatasetDict(train=table(train), test=table(test)), validation_size=0)
    (leak,) = found(result, "leak into test")
    assert leak.severity == "error"
    assert [o.reference for o in leak.offenders] == [f"row {row}" for row in range(201, 206)]


def test_copies_that_a_drawn_validation_split_would_take_count_as_leaked(tmp_path: Path):
    """Of 4 % that leak half would go to validation, and 2 % alone are no reason to refuse."""
    texts = [f"{name} {count * 7919 % 1009}" for name in ("ant", "bee") for count in range(150)]
    train = Dataset.from_dict({"text": texts[:204], "label": ["x", "y"] * 102})
    test = Dataset.from_dict({"text": texts[200:], "label": ["x", "y"] * 50})
    result = check(DatasetDict(train=train, test=test), validation_size=0.5)
    assert [f.severity for f in found(result, "leak into test")] == ["error"]
