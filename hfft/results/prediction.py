"""predict(): any number of inputs, some at a time; those that cannot be read are told of beside those that can."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import IO, Any

import numpy as np
from datasets import Dataset
from rich.console import Console

from hfft.data.columns import find_columns
from hfft.data.inspecting import Track
from hfft.data.sources import Source, read_inputs, task_inputs
from hfft.data.split_names import REFERENCE, UNSPLIT
from hfft.errors import UserError
from hfft.findings import reference_text
from hfft.paths import require_writable
from hfft.results.inference import Classifier, columns_of_run, settings_of_run, sort_settings
from hfft.results.prediction_tables import ERROR, STREAM, open_writer, table_schema
from hfft.task import Task
from hfft.terminal import progress_bar

_CHUNK = 1024  # inputs in memory at a time
_BATCH = 64  # looked at together


@dataclass
class PredictionSummary:
    """What was predicted.

    Attributes:
        count: inputs.
        errors: of those that could not be read the first few, as they are called and why.
        unreadable: how many those are.
    """

    count: int = 0
    unreadable: int = 0
    errors: list[str] = field(default_factory=list)


@dataclass
class _Chunk:
    """Some inputs: the task's columns, what each is called, and what is already known to be wrong with some."""

    examples: Dataset
    references: list[str]
    problems: dict[int, str] = field(default_factory=dict)


def predict(
    model: str,
    inputs: str | Path,
    output: str | Path | None = None,
    *,
    task: str | Task | None = None,
    batch_size: int = 64,
    **settings: Any,
) -> Dataset:
    """Predict the classes, or the number, of a file, of all files below a folder, or of the rows of a table.

    Args:
        model: folder or Hub id of the fine-tuned model.
        inputs: the file, folder or table, or ``-`` for standard input: a text or path in each line, or JSON lines.
        output: ``.csv`` or ``.parquet`` file to write.
        task: left out, the model decides.
        batch_size: examples at a time.
        **settings: fields of ModelArguments and DataArguments (column names, ``cache_dir``).

    Returns:
        a table with ``input``, ``predicted``, for classes ``probability_<class>``, and ``error``: why an input could
        not be read, and has no prediction. Where a model predicts several classes, ``predicted`` is a list, and in CSV
        a text that ``;`` divides.

    Raises:
        UserError: where no input can be read, or the output not written.
    """
    from pyarrow import concat_tables

    tables: list[Any] = []
    predict_to(model, inputs, output, tables.append, task=task, batch_size=batch_size, **settings)
    return Dataset(concat_tables(tables))


def predict_to(
    model: str,
    inputs: str | Path,
    output: str | Path | None,
    also: Any = None,
    *,
    task: str | Task | None = None,
    batch_size: int = 64,
    console: Console | None = None,
    **settings: Any,
) -> PredictionSummary:
    """Predict as :func:`predict`, with no more in memory than some inputs at a time.

    Args:
        model, inputs, output, task, batch_size, settings: as there; the output may be ``-`` too, which is CSV.
        also: is called with each part of the table, a ``pyarrow.Table``.
        console: shows the progress.
    """
    model_arguments, data_arguments = sort_settings(settings, model=model)
    if output not in (None, STREAM):
        require_writable(Path(str(output)), (".csv", ".parquet"), Path(inputs))
    classifier = Classifier.load(model_arguments, task)
    named = data_arguments.named_columns()
    summary, delimiter = PredictionSummary(), data_arguments.label_delimiter or ";"
    opened = open_writer(output, classifier.target, delimiter)
    with progress_bar(console or Console(quiet=True)) as bar, opened as writer:
        track: Track = lambda items, n, _: bar.track(items, n, description="Predicting")  # noqa: E731
        chunks = (
            _lines(sys.stdin.buffer, classifier.task, named, model)
            if inputs == STREAM
            else _rows(inputs, classifier.task, named, model, data_arguments.cache_dir, track)
        )
        for chunk in chunks:
            table = _predicted(classifier, chunk, batch_size, summary)
            writer.write(table)
            if also is not None:
                also(table)
        if summary.unreadable == summary.count:  # the file is not written then
            first = f"; {summary.errors[0]}" if summary.errors else ""
            raise UserError(f"--input: '{inputs}' holds no input that can be read{first}.")
    return summary


def _rows(
    inputs: str | Path, task: Task, named: dict[str, str], model: str, cache_dir: str | None, track: Track
) -> Iterator[_Chunk]:
    """Yield the files, or the rows of the table."""
    source = read_inputs(inputs, task.file_suffixes, cache_dir)
    columns = _columns(source, task, named, model)
    split = source.splits[UNSPLIT]
    starts = range(0, len(split), _CHUNK)
    for start in track(starts, len(starts), "Predicting"):
        part = split.select(range(start, min(start + _CHUNK, len(split))))
        numbers = part[REFERENCE][:] if source.from_files else range(start + 1, start + 1 + len(part))
        yield _Chunk(task_inputs(source, part, task, columns), [reference_text(number) for number in numbers])


def _columns(source: Source, task: Task, named: dict[str, str], model: str) -> dict[str, str]:
    found = {**columns_of_run(settings_of_run(model), source), **named}
    found.pop("label", None)
    return find_columns(source, task, found, labelled=False)


def _lines(stream: IO[bytes], task: Task, named: dict[str, str], model: str) -> Iterator[_Chunk]:
    """Yield the lines of a stream: JSON objects if the first one is one, else texts (or paths)."""
    columns: dict[str, str] | None = None
    is_json: bool | None = None
    numbered = ((number, line.rstrip(b"\r\n")) for number, line in enumerate(stream, start=1))
    lines = ((number, line) for number, line in numbered if line.strip())
    while part := list(islice(lines, _CHUNK)):
        if is_json is None:
            is_json = part[0][1].lstrip().startswith(b"{")
        problems: dict[int, str] = {}
        rows = [_row(line, is_json, task, problems, place) for place, (_, line) in enumerate(part)]
        names = list(dict.fromkeys(name for row in rows for name in row))
        if is_json and columns is None and names:
            given = Dataset.from_list([{name: row.get(name, "") for name in names} for row in rows if row])
            columns = _columns(Source({UNSPLIT: given}, STREAM, flag="--input"), task, named, model)
        if is_json:
            rows = [{role: row.get(column) for role, column in (columns or {}).items()} for row in rows]
        names = list(columns or names or [task.inputs[0].role])
        examples = Dataset.from_dict({name: [row.get(name) for row in rows] for name in names})
        yield _Chunk(examples, [reference_text(number) for number, _ in part], problems)


def _row(line: bytes, is_json: bool, task: Task, problems: dict[int, str], place: int) -> dict[str, Any]:
    """Return a line as an example, and note what is wrong with it."""
    try:
        text = line.decode("utf-8")
        if is_json:
            row = json.loads(text)
            if not isinstance(row, dict):
                raise ValueError
            return {name: value if isinstance(value, str) else json.dumps(value) for name, value in row.items()}
        return task.from_file(text) if task.file_suffixes else {task.inputs[0].role: text}
    except UnicodeDecodeError:
        problems[place] = "it is no UTF-8 text"
    except ValueError:
        problems[place] = "it is no JSON object"
    return {}


def _predicted(classifier: Classifier, chunk: _Chunk, batch_size: int, summary: PredictionSummary) -> Any:
    """Return the part of the table for a chunk."""
    import pyarrow

    task, examples = classifier.task, chunk.examples
    problems: list[str | None] = [None] * len(examples)
    starts = range(0, len(examples), _BATCH)
    with ThreadPoolExecutor() as pool:
        looks = pool.map(lambda start: task.inspect_batch(examples[start : start + _BATCH]), starts)
        problems = [look.problem for part in looks for look in part]
    for row, problem in chunk.problems.items():
        problems[row] = problem
    bad = [row for row, problem in enumerate(problems) if problem is not None]
    summary.count += len(examples)
    summary.unreadable += len(bad)
    summary.errors += [f"{chunk.references[row]}: {problems[row]}" for row in bad[: 8 - len(summary.errors)]]
    good = np.array([row for row, problem in enumerate(problems) if problem is None], dtype=np.int64)
    schema = table_schema(classifier.target)
    columns: dict[str, list[Any]] = {name: [None] * len(examples) for name in schema.names}
    columns["input"] = [
        task.describe(example) if problems[row] is None or not chunk.problems else chunk.references[row]
        for row, example in enumerate(examples)
    ]
    columns[ERROR] = list(problems)
    if len(good):
        outputs = classifier.outputs(examples.select(good), batch_size)
        for name, values in classifier.target.prediction_columns(outputs).items():
            for row, value in zip(good.tolist(), list(values), strict=True):
                columns[name][row] = value
    return pyarrow.table({name: pyarrow.array(columns[name], schema.field(name).type) for name in schema.names})
