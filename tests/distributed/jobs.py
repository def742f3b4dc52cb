"""Runs of hfft, one after the other in the same processes: what starting them costs is paid once.

``torchrun ... -m tests.distributed.jobs jobs.json`` runs a list of jobs through the command line's own ``main``, and
writes for each one and each rank what came of it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock


@contextlib.contextmanager
def watched(facts: dict[str, Any], job: dict[str, Any]) -> Iterator[None]:
    """Note what is trained; give the last process alone trouble in one of the steps: SIGTERM, a loss of no number."""
    import torch

    from hfft import finetuning, trainer
    from hfft.hardware.processes import reduce_what_trains
    from hfft.running import assembling
    from hfft.trainer import FineTuningTrainer

    class Watched(FineTuningTrainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            facts["world_size"] = self.args.world_size

        def training_step(self, model: Any, *args: Any, **kwargs: Any) -> Any:
            facts["wrapped"] = type(model).__name__
            facts["steps"] = self.state.global_step + 1
            facts["began_at"].setdefault(str(facts["run"]), self.state.global_step)
            last = self.args.process_index == self.args.world_size - 1
            if last and self.state.global_step == job["stop_at"] and not facts["signalled"]:
                facts["signalled"] = True  # a second signal would not be waited for
                signal.raise_signal(signal.SIGTERM)
            return super().training_step(model, *args, **kwargs)

        def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            examples = len(inputs["labels"])
            memory = job["memory"] if self.args.process_index and self.model.training else None
            with contextlib.ExitStack() as stack:
                if memory is not None and examples > 2 * memory:  # in the forward pass, after what processes exchange
                    handle = self.model.register_forward_pre_hook(out_of_memory)
                    stack.callback(handle.remove)
                loss = super().compute_loss(model, inputs, *args, **kwargs)
            if not self.model.training:
                return loss
            if memory is not None and examples > memory:  # in the backward pass
                loss.register_hook(out_of_memory)
            last = self.args.process_index == self.args.world_size - 1
            return loss * (float("nan") if last and self.state.global_step == job["nan_at"] else 1.0)

    def out_of_memory(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    def counted(group: Any, bucket: Any) -> Any:
        facts["frozen_buckets"] += not any(parameter.requires_grad for parameter in bucket.parameters())
        return reduce_what_trains(group, bucket)

    facts |= {"frozen_buckets": 0, "signalled": False}
    finetune = finetuning.finetune

    def noted(**settings: Any) -> Any:
        result = finetune(**settings)
        facts["metrics"] = result.metrics
        facts["notes"] = result.record.notes
        facts["best"] = result.trainer.state.best_global_step
        losses = {"loss", "eval_loss"}
        facts["losses"] = [entry[name] for entry in result.record.history for name in sorted(losses & entry.keys())]
        return result

    with (
        mock.patch.object(assembling, "FineTuningTrainer", Watched),
        mock.patch.object(finetuning, "finetune", noted),
        mock.patch.object(trainer, "reduce_what_trains", counted),
        mock.patch.object(torch.distributed, "_DEFAULT_FIRST_BUCKET_BYTES", 1000),  # more than one bucket
    ):
        yield


@contextlib.contextmanager
def disagreeing() -> Iterator[None]:
    """Let this process come to decisions of its own: the first pooling, another head, other metrics."""
    from hfft import finetuning
    from hfft.features import start
    from hfft.features.heads import LinearHead

    solve, make = start.solve_head, finetuning.make_trainer
    solved: list[LinearHead] = []

    def solve_otherwise(*args: Any, **kwargs: Any) -> LinearHead:
        head = solve(*args, **kwargs)
        solved.append(head)
        path = tuple(dataclasses.replace(point, loss=float(len(solved))) for point in head.path)
        return dataclasses.replace(head, weight=-2 * head.weight, bias=head.bias + 1, path=path)

    def make_with_other_metrics(*args: Any, **kwargs: Any) -> Any:
        trainer = make(*args, **kwargs)
        measure = trainer.compute_metrics
        trainer.compute_metrics = lambda prediction: {name: -value for name, value in measure(prediction).items()}
        return trainer

    with (
        mock.patch.object(start, "solve_head", solve_otherwise),
        mock.patch.object(finetuning, "make_trainer", make_with_other_metrics),
    ):
        yield


def run_job(job: dict[str, Any], rank: int) -> None:
    """Run ``hfft train``, twice where the first run is to be stopped, and write down what came of it."""
    from hfft.cli import main

    settings = job["settings"] | (job["others"] if rank else {})
    argv = [text for name, value in settings.items() for text in (f"--{name}", str(value))]
    facts: dict[str, Any] = {"codes": [], "began_at": {}}
    errors = io.StringIO()
    with watched(facts, job), disagreeing() if job["disagree"] and rank else contextlib.nullcontext():
        for run in range(1 if job["stop_at"] is None else 2):
            facts["run"] = run
            with contextlib.redirect_stderr(errors):
                facts["codes"].append(main(["train", *argv, *(["--resume"] if run else [])]))
            facts["stopped_after"] = facts.get("stopped_after", facts.get("steps"))
    facts["errors"] = errors.getvalue()
    facts["kept"] = sorted(path.name for path in (Path(settings["cache_dir"]) / "hfft").glob("*-*"))
    write_facts(job, rank, facts)


def write_facts(job: dict[str, Any], rank: int, facts: dict[str, Any]) -> None:
    """Write what a rank knows of a job."""
    folder = Path(job["facts"])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{rank}.json").write_text(json.dumps(facts))


def read_facts(folder: Path) -> list[dict[str, Any]]:
    """Return what each rank knows of a job."""
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(len(list(folder.iterdir())))]


def run_jobs(file: Path) -> None:
    """Run all jobs of a file on this rank; what one of them raises ends the list."""
    rank = int(os.environ.get("RANK", "0"))
    for job in json.loads(file.read_text()):
        if job["kind"] == "train":
            run_job(job, rank)
        else:
            from tests.distributed import fully_sharded

            fully_sharded.run_job(job, rank)


if __name__ == "__main__":
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    run_jobs(Path(sys.argv[1]))
    import torch

    torch.distributed.destroy_process_group()
