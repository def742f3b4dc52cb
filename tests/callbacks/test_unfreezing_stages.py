"""When groups thaw, by shares of a run, epochs and steps."""

from hfft.callbacks.unfreezing_stages import UnfreezeStages


def test_by_default_everything_is_thawed_by_half_of_the_run():
    schedule = UnfreezeStages().schedule(groups=6, total_steps=100, steps_per_epoch=10)
    assert schedule.starts == (50, 40, 30, 20, 10, 0)
    assert UnfreezeStages(epochs_per_group=0.5).schedule(6, 100, 10).starts == (25, 20, 15, 10, 5, 0)
    assert UnfreezeStages(start_epochs=[0, 1, 1.5]).schedule(3, 100, 10).starts == (15, 10, 0)
    assert UnfreezeStages(groups_per_stage=2, steps_per_group=7).schedule(4, 100, 10).starts == (14, 7, 7, 0)
