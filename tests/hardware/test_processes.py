from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from hfft.hardware import processes


def test_one_process_agrees_with_itself():
    value = object()
    assert processes.from_first_process(value) is value
    assert processes.of_all_processes(value) == [value]
    weight = torch.ones(2)
    processes.copy_from_first_process([weight])
    assert weight.tolist() == [1, 1]


def test_a_bucket_is_sent_unless_all_of_it_is_frozen(monkeypatch: pytest.MonkeyPatch):
    sent = []
    monkeypatch.setattr(processes, "allreduce_hook", lambda group, bucket: sent.append(bucket))
    parameters = [torch.nn.Parameter(torch.ones(2)) for _ in range(2)]
    bucket = SimpleNamespace(parameters=lambda: parameters, buffer=lambda: buffer)
    buffer = torch.zeros(4)
    parameters[0].requires_grad_(False)
    processes.reduce_what_trains(None, bucket)
    assert sent == [bucket]
    parameters[1].requires_grad_(False)
    assert processes.reduce_what_trains(None, bucket).wait() is buffer
    assert sent == [bucket]
