"""A process where hfft is not importable, nor what adapters are trained with: it has transformers' pipelines alone."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from typing import Any

_PROGRAM = """
import json, sys, traceback
sys.modules.update(dict.fromkeys(("hfft", "peft", "bitsandbytes")))
answers, sys.stdout = sys.stdout, sys.stderr
import numpy as np
from PIL import Image
from transformers import pipeline

def answer(task, folder, inputs, options):
    classify = pipeline(task, model=folder, device="cpu")
    if task == "audio-classification":
        inputs = [np.array(sound, np.float32) for sound in inputs]
    size = None
    if task == "image-classification":
        size = list(classify.image_processor(Image.open(inputs[0]))["pixel_values"][0].shape[1:])
    return {"answers": classify(inputs, **options), "size": size}

for line in sys.stdin:
    try:
        told = answer(*json.loads(line))
    except Exception:
        told = {"error": traceback.format_exc()}
    print(json.dumps(told), file=answers, flush=True)
"""


class Pipelines:
    """Asks pipelines in a process that is started once: importing transformers takes longer than most answers."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None

    def ask(self, task: str, folder: str, inputs: list[Any], **options: Any) -> dict[str, Any]:
        """Return the pipeline's ``answers``, and for pictures the ``size`` [height, width] of what the model reads."""
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            elsewhere = tempfile.gettempdir()  # not in the folder of the package
            self.process = subprocess.Popen([sys.executable, "-c", _PROGRAM], text=True, cwd=elsewhere, **pipes)
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([task, folder, inputs, options]) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, "the process has ended"
        told = json.loads(line)
        assert "error" not in told, told["error"]
        return told

    def probabilities(self, task: str, folder: str, inputs: list[Any]) -> list[dict[str, float]]:
        """Return the probability of each class by its name."""
        answers = self.ask(task, folder, inputs, top_k=None)["answers"]
        return [{found["label"]: found["score"] for found in answer} for answer in answers]

    def close(self) -> None:
        """End the process."""
        if self.process is not None:
            self.process.communicate()
