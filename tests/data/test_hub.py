from __future__ import annotations

import pytest

from hfft.data.sources import read_source
from hfft.errors import UserError


@pytest.fixture
def online(monkeypatch):
    """Let the code believe that there is a network; loading anything fails the test."""
    monkeypatch.setattr("huggingface_hub.constants.is_offline_mode", lambda: False)
    monkeypatch.setattr("datasets.load_dataset", lambda *args, **kwargs: pytest.fail("the Hub was asked again"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionError("no route"), r"the Hub cannot be reached \(no route\).*HF_HUB_OFFLINE=1"),
        (RuntimeError("of the client's own kind"), "the Hub cannot be reached"),
    ],
)
def test_the_hub_is_asked_once(online, monkeypatch, error: Exception, message: str):
    asked = []

    def dataset_info(self, repo: str, **options):
        asked.append((repo, options))
        raise error

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    with pytest.raises(UserError, match=f"'fotos/train@main' is no file or folder here, and {message}"):
        read_source("fotos/train@main", ())
    ((repo, options),) = asked
    assert repo == "fotos/train"
    assert options["revision"] == "main"
    assert options["timeout"] <= 10


def test_a_name_that_is_none_on_the_hub(online):
    with pytest.raises(UserError, match="and is no name on the Hub"):
        read_source("fotos--x/train..", ())
