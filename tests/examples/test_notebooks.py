"""The notebooks run from top to bottom with what ships alone, and are stored without outputs."""

from __future__ import annotations

import json
from pathlib import Path

import nbformat
import pandas
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))


def shown(cell: nbformat.NotebookNode) -> str:
    """Return what a cell printed and what its last line is."""
    return "".join(output.get("text", "") or output["data"].get("text/plain", "") for output in cell.outputs)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs(path: Path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert code
    assert not [cell for cell in code if cell.outputs or cell.execution_count is not None]


@pytest.mark.document
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_from_top_to_bottom(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()

    outputs = {cell.source.splitlines()[-1]: shown(cell) for cell in notebook.cells if cell.cell_type == "code"}
    assert any("nothing that a run would refuse\n" in text for text in outputs.values())
    assert "only_second_right" in outputs["comparison.mcnemar"]
    mistakes = outputs['pandas.DataFrame(tuned.record.mistakes)[["input", "label", "answer"]].head()']
    assert "\n4  " in mistakes
    assert "score" in next(text for source, text in outputs.items() if source.startswith("classify("))
    assert "Traceback" not in json.dumps(notebook)

    metrics = json.loads((tmp_path / "notebook" / "lp-ft" / "metrics.json").read_text())
    assert metrics["test_accuracy_ci_low"] > metrics["baseline_test_accuracy"] + 0.2
    folds = pandas.read_parquet(tmp_path / "notebook" / "folds" / "predictions.parquet")
    assert (folds["label"] == folds["predicted"]).mean() > 0.5
