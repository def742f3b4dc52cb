"""Build the text classification extract that ships with hfft: which topic is a docstring about?

One row for each public function or class of scipy: the first sentences of its documentation, and
the topic its subpackage stands for.

    python make_scipy_topics.py --output scipy-topics
"""

from __future__ import annotations

import argparse
import csv
import importlib
import inspect
import re
from collections import Counter
from pathlib import Path

import numpy as np
import scipy
from pretrain_bert import normalise, prose, read_documents

TOPICS = {
    "stats": "statistics",
    "linalg": "linear algebra",
    "signal": "signal processing",
    "optimize": "optimization",
    "special": "special functions",
    "ndimage": "image processing",
}
LARGEST_CLASS = 130  # statistics and special functions would otherwise be half of the rows
MOST_SENTENCES, MOST_WORDS, FEWEST_WORDS = 2, 60, 5
# A sentence that names a module is either an advertisement or gives the label away.
GIVEAWAY = re.compile(r"scipy|numpy|cupy|pytorch|ndimage|linalg|array api|instance of the|lapack", re.IGNORECASE)
TEST_SHARE = 0.45
README = """# scipy topics

Which topic is a docstring about? {train} rows in `train.csv` and {test} in `test.csv`, with the
columns `text` and `label`. Each row holds the first sentences of the documentation of one public
function or class of scipy {version}, without markup; the label stands for the subpackage it
lives in. Sentences that name a module of scipy were left out, as were sentences that
four or more functions share; equal texts were kept once, and no
topic has more than {largest} rows. The split is stratified and was drawn once, with seed {seed}.

| topic | train | test |
|---|---:|---:|
{table}

Made by `make_scipy_topics.py`. No row occurs in the text that the tiny BERT next to this extract
was pretrained on; the script checks that.

The texts are taken from scipy, Copyright (c) 2001-2002 Enthought, Inc. 2003, SciPy Developers,
all rights reserved, and are redistributed under its licence (BSD-3-Clause):

{licence}
"""
LICENCE = """Redistribution and use in source and binary forms, with or without
modification, are permitted provided that the following conditions
are met:

1. Redistributions of source code must retain the above copyright
   notice, this list of conditions and the following disclaimer.

2. Redistributions in binary form must reproduce the above
   copyright notice, this list of conditions and the following
   disclaimer in the documentation and/or other materials provided
   with the distribution.

3. Neither the name of the copyright holder nor the names of its
   contributors may be used to endorse or promote products derived
   from this software without specific prior written permission.

THIS SOFTWARE IS PROVIDED BY THE COPYRIGHT HOLDERS AND CONTRIBUTORS
"AS IS" AND ANY EXPRESS OR IMPLIED WARRANTIES, INCLUDING, BUT NOT
LIMITED TO, THE IMPLIED WARRANTIES OF MERCHANTABILITY AND FITNESS FOR
A PARTICULAR PURPOSE ARE DISCLAIMED. IN NO EVENT SHALL THE COPYRIGHT
OWNER OR CONTRIBUTORS BE LIABLE FOR ANY DIRECT, INDIRECT, INCIDENTAL,
SPECIAL, EXEMPLARY, OR CONSEQUENTIAL DAMAGES (INCLUDING, BUT NOT
LIMITED TO, PROCUREMENT OF SUBSTITUTE GOODS OR SERVICES; LOSS OF USE,
DATA, OR PROFITS; OR BUSINESS INTERRUPTION) HOWEVER CAUSED AND ON ANY
THEORY OF LIABILITY, WHETHER IN CONTRACT, STRICT LIABILITY, OR TORT
(INCLUDING NEGLIGENCE OR OTHERWISE) ARISING IN ANY WAY OUT OF THE USE
OF THIS SOFTWARE, EVEN IF ADVISED OF THE POSSIBILITY OF SUCH DAMAGE."""


def opening(doc: str) -> list[str]:
    """The sentences of a docstring before its first underlined heading, as plain text."""
    start = re.split(r"\n[^\n]+\n\s*-{3,}", doc)[0].replace("~", "")
    plain = (s.encode("ascii", "ignore").decode() for s in prose(start))
    # A sentence that ends in a colon announces a formula, which is gone.
    return [
        s if s.endswith((".", "!", "?")) else f"{s}."
        for s in plain
        if not GIVEAWAY.search(s) and not s.endswith(":") and "::" not in s
    ]


def collect(seed: int) -> list[tuple[str, str]]:
    """Every row, shuffled; a text that two topics share belongs to neither."""
    openings: list[tuple[list[str], str]] = []
    for package, topic in TOPICS.items():
        module = importlib.import_module(f"scipy.{package}")
        for name in sorted(module.__all__):
            member = getattr(module, name)
            if callable(member) and "deprecated" not in (member.__doc__ or "").lower():
                openings.append((opening(inspect.getdoc(member) or ""), topic))
    # What many functions say word for word tells the subpackage by its template.
    uses = Counter(sentence for sentences, _ in openings for sentence in set(sentences))
    found: dict[str, tuple[str, str]] = {}
    topics: dict[str, set[str]] = {}
    for sentences, topic in openings:
        taken: list[str] = []
        for sentence in (s for s in sentences if uses[s] < 4):
            if len(taken) == MOST_SENTENCES:
                break
            if len(" ".join([*taken, sentence]).split()) <= MOST_WORDS:
                taken.append(sentence)
        text = " ".join(taken)
        if len(text.split()) >= FEWEST_WORDS:
            found.setdefault(normalise(text), (text, topic))
            topics.setdefault(normalise(text), set()).add(topic)
    rows = [row for key, row in found.items() if len(topics[key]) == 1]
    order = np.random.default_rng(seed).permutation(len(rows))
    counts: Counter[str] = Counter()
    kept = []
    for text, topic in (rows[i] for i in order):
        counts[topic] += 1
        if counts[topic] <= LARGEST_CLASS:
            kept.append((text, topic))
    return kept


def assert_unseen(rows: list[tuple[str, str]], files: list[Path]) -> None:
    """Fail if a row's text can be read anywhere in the text used for pretraining."""
    documents = read_documents(files)
    everything = "\n".join(" ".join(normalise(s) for s in d.sentences) for d in documents)
    for text, _ in rows:
        assert normalise(text) not in everything, f"this row is part of the pretraining text: {text}"


def main() -> None:
    """Write train.csv, test.csv and README.md, and check them against the pretraining text."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    rows = collect(args.seed)
    parts: dict[str, list[tuple[str, str]]] = {"train": [], "test": []}
    for topic in TOPICS.values():
        of_topic = [row for row in rows if row[1] == topic]
        cut = round(len(of_topic) * TEST_SHARE)
        parts["test"] += of_topic[:cut]
        parts["train"] += of_topic[cut:]
    args.output.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        with (args.output / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([("text", "label"), *sorted(part)])
    counts = {name: Counter(topic for _, topic in part) for name, part in parts.items()}
    card = README.format(
        train=len(parts["train"]),
        test=len(parts["test"]),
        version=scipy.__version__,
        largest=LARGEST_CLASS,
        seed=args.seed,
        licence=LICENCE,
        table="\n".join(f"| {t} | {counts['train'][t]} | {counts['test'][t]} |" for t in TOPICS.values()),
    )
    (args.output / "README.md").write_text(card, encoding="utf-8")
    assert len(parts["test"]) >= 250
    assert_unseen(rows, [args.output / f"{name}.csv" for name in parts])
    print({name: dict(count) for name, count in counts.items()})


if __name__ == "__main__":
    main()
