from __future__ import annotations

from pathlib import Path

import pandas

from hfft.searching.results import write_trials


def row(number: int, parameters: dict) -> dict:
    return {"number": number, "state": "complete", "value": 0.5, "duration": 1, "reason": "", "parameters": parameters}


def test_whole_numbers_stay_whole_beside_what_is_left_at_its_default(tmp_path: Path):
    write_trials(
        [
            row(1, {"max_length": 48, "freeze": "3", "layer_decay": 0.5}),
            row(2, {"max_length": None, "freeze": 2, "layer_decay": 1}),
        ],
        tmp_path,
    )
    assert (tmp_path / "trials.csv").read_text().splitlines() == [
        "number,state,value,duration,reason,max_length,freeze,layer_decay",
        "1,complete,0.5,1,,48,3,0.5",
        "2,complete,0.5,1,,,2,1",
    ]
    table = pandas.read_parquet(tmp_path / "trials.parquet", dtype_backend="numpy_nullable")
    assert table["max_length"].dtype == "Int64"
    assert table["freeze"].tolist() == ["3", "2"]
    assert table["duration"].tolist() == [1.0, 1.0]
