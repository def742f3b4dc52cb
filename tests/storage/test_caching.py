from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from hfft.storage.caching import Cache, content_key


def counted(values: np.ndarray):
    calls = []

    def make() -> np.ndarray:
        calls.append(1)
        return values

    return make, calls


def test_an_array_is_made_once_and_then_mapped(tmp_path):
    make, calls = counted(np.arange(10, dtype=np.float32))
    for cache in (Cache(tmp_path, 10**6), Cache(tmp_path, 10**6)):
        array = cache.array("a", make)
        assert isinstance(array, np.memmap)
        assert array.tolist() == list(range(10))
        array[0] = 7  # private: the file stays as it is
        assert cache.note is None
    assert len(calls) == 1


def test_an_array_without_elements_is_kept_too(tmp_path):
    make, calls = counted(np.zeros((0, 3)))
    assert Cache(tmp_path, 10**6).array("a", make).shape == Cache(tmp_path, 10**6).array("a", make).shape == (0, 3)
    assert len(calls) == 1


def test_the_longest_unused_entries_go_when_the_budget_is_used_up(tmp_path):
    block = np.zeros(1000, dtype=np.uint8)
    for age, key in enumerate(("new", "middle", "old")):
        Cache(tmp_path, 10**6).array(key, lambda: block)
        os.utime(tmp_path / key, (10**9 - age, 10**9 - age))
    Cache(tmp_path, 10**6).array("old", lambda: block)  # used again: now the newest
    Cache(tmp_path, 3600).array("next", lambda: block)
    assert Cache(tmp_path, 0).entries() == ["new", "old", "next"]


def test_a_run_never_evicts_what_it_uses_itself(tmp_path):
    cache = Cache(tmp_path, 2500)
    kept = [cache.array(key, lambda: np.ones(1000, dtype=np.uint8)) for key in "ab"]
    more = cache.array("c", lambda: np.full(1000, 2, dtype=np.uint8))
    assert more.tolist() == [2] * 1000  # made, though not kept
    assert cache.entries() == ["a", "b"]
    assert "budget" in str(cache.note)
    assert all(array.sum() == 1000 for array in kept)


def test_what_is_known_not_to_fit_is_not_begun(tmp_path):
    cache = Cache(tmp_path, 100)
    assert cache.arrays("a", lambda folder: pytest.fail("begun"), size=101) is None


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "No space left on device"), PermissionError(13, "denied")])
def test_a_disk_that_refuses_is_a_note_and_leaves_nothing(tmp_path, error):
    cache = Cache(tmp_path, 10**6)

    def fill(folder: Path) -> None:
        np.save(folder / "half.npy", np.zeros(3))
        raise error

    assert cache.arrays("a", fill) is None
    assert error.strerror in str(cache.note)
    assert cache.entries() == []
    assert [path.name for path in tmp_path.iterdir()] == ["locks"]


def test_a_folder_that_cannot_be_made_is_a_note(tmp_path):
    (tmp_path / "file").write_text("")
    cache = Cache(tmp_path / "file" / "cache", 10**6)
    assert cache.array("a", lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert cache.note is not None


def test_what_fill_itself_gets_wrong_goes_through_and_leaves_nothing(tmp_path):
    with pytest.raises(KeyError):
        Cache(tmp_path, 10**6).array("a", lambda: {}["missing"])
    assert Cache(tmp_path, 10**6).entries() == []


def test_a_damaged_entry_is_made_anew_and_no_pickle_is_read(tmp_path):
    cache = Cache(tmp_path, 10**6)
    cache.array("a", lambda: np.arange(3))
    (tmp_path / "a" / "array.npy").write_bytes(b"nonsense")
    assert cache.array("a", lambda: np.arange(4)).tolist() == [0, 1, 2, 3]
    np.save(tmp_path / "a" / "array.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert cache.array("a", lambda: np.arange(5)).tolist() == [0, 1, 2, 3, 4]


def test_a_run_that_was_killed_leaves_no_trace_in_the_next(tmp_path):
    (tmp_path / ".a").mkdir(parents=True)
    (tmp_path / ".a" / "array.npy").write_bytes(b"half")
    cache = Cache(tmp_path, 10**6)
    assert cache.entries() == []
    assert cache.array("a", lambda: np.arange(3)).tolist() == [0, 1, 2]
    assert not (tmp_path / ".a").exists()


def test_of_two_processes_one_makes_the_entry_and_both_read_it(tmp_path):
    # each waits inside make until the other has started: without a lock both would make it
    program = """
import sys, time, pathlib, numpy as np
from hfft.storage.caching import Cache
root, me = pathlib.Path(sys.argv[1]), sys.argv[2]
(root / f"started-{me}").touch()
def make():
    (root / f"made-{me}").touch()
    while len(list(root.glob("started-*"))) < 2:
        time.sleep(0.01)
    return np.arange(1000)
assert Cache(root / "cache", 10**6).array("a", make).sum() == 499500
"""
    runs = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path), name]) for name in "xy"]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert len(list(tmp_path.glob("made-*"))) == 1


def test_a_key_tells_apart_what_differs():
    keys = [content_key(*parts) for parts in (("ab", "c"), ("a", "bc"), (b"ab", "c"), (1,), (1.0,), ("1",), (None,))]
    assert len(set(keys)) == len(keys)
    assert content_key("ab", "c") == keys[0]
