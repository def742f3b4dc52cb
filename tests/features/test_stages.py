from __future__ import annotations

from hfft.features.stages import Stage, stages_of, worth_recording


def test_stages_end_where_the_next_group_thaws():
    assert stages_of([40, 20, 0], 100, 10) == [Stage(0, 2.0, 2), Stage(20, 2.0, 1)]
    assert stages_of([None, None, 0], 100, 10) == [Stage(0, 10.0, 2)]
    assert stages_of([None, 0, None], 100, 10) == [Stage(0, 10.0, 1)]  # what is frozen above something that trains
    assert stages_of([0, 0], 100, 10) == []
    assert stages_of([200, 0], 100, 10) == [Stage(0, 10.0, 1)]  # a thaw that never comes


def test_recording_has_to_pay():
    long, short = [Stage(0, 10.0, 4)], [Stage(0, 1.0, 4)]
    assert worth_recording(long, {4: 1.0}, 10) == {4}
    assert worth_recording(short, {4: 1.0}, 10) == set()
    assert worth_recording(long, {4: 1.0}, 10, views=10) == set()  # each view would be seen once
    assert worth_recording(long, {4: 1.0}, 0.5) == set()


def test_of_many_cuts_those_are_recorded_that_save_most_in_the_room_there_is():
    stages = stages_of([100, 80, 60, 40, 20, 0], 200, 20)  # an epoch each
    sizes = dict.fromkeys(range(1, 6), 1.0)
    assert worth_recording(stages, sizes, 10) == {1, 2, 3, 4}  # the head alone trains for one epoch only
    assert len(worth_recording(stages, sizes, 2)) == 2
    one = worth_recording(stages, sizes, 1)
    assert one == {2}  # four stages can start from it
    assert 5 in worth_recording(stages_of([400, 80, 60, 40, 200, 0], 500, 20), sizes, 10)
