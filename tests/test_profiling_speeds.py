"""How a device changes its speed, as a profile sees it, and what a window makes of it."""

import numpy as np
import pytest

from hwnas.profiling.speeds import Speeds


def looks(states, every_s=0.5):
    """(moments, anchors) of a device that is half as slow again where the state is 1."""
    return np.arange(len(states)) * every_s, np.where(np.array(states) == 1, 75_000, 50_000)


def test_a_device_of_one_speed_has_no_dwell_and_no_slow_share():
    assert Speeds.seen(*looks([0] * 40)) == Speeds(0.0, 0.0)
    assert Speeds.of({}) == Speeds.of({"dwell_s": "long", "slow_share": 0.5}) == Speeds.of({"dwell_s": 3.0, "slow_share": 1.5}) == Speeds()


def test_the_dwell_is_that_of_the_speed_that_is_kept_longer():
    found = Speeds.seen(*looks(([0] * 20 + [1] * 10) * 4))
    assert found.slow_share == pytest.approx(1 / 3) and found.dwell_s == pytest.approx(10.0, rel=0.2)


def test_a_single_look_that_differs_is_a_disturbance():
    assert Speeds.seen(*looks([0] * 20 + [1] + [0] * 20)).dwell_s == 0.0


def test_a_profile_that_was_continued_an_hour_later_says_nothing_about_between():
    at_s, anchors = looks([0] * 20 + [1] * 20)
    at_s[20:] += 3_600
    assert Speeds.seen(at_s, anchors).dwell_s == 0.0


def test_a_window_is_longer_only_where_the_slow_speed_matters_and_at_most_half_an_hour():
    assert Speeds(20.0, 0.1).window_s(60, 0.5) == 60 and Speeds(20.0, 0.1).window_s(60, 0.9) == 100
    assert Speeds(20.0, 0.4).window_s(60, 0.5) == 100 and Speeds(20.0, 0.4).window_s(300, 0.5) == 300
    assert Speeds(9_999.0, 0.4).window_s(60, 0.5) == 1_800


def test_a_window_that_was_slow_less_often_than_the_profile_is_judged_by_a_higher_quantile():
    speeds = Speeds(dwell_s=6.0, slow_share=0.2)
    assert speeds.bounded(0.5, 0.2, 60) == speeds.bounded(0.5, 0.9, 60) == Speeds().bounded(0.5, 0.0, 60) == 0.5
    for seen in (0.0, 0.1):
        mean = (0.2 + seen) / 2
        share = mean + np.sqrt(mean * (1 - mean) * 6 / 120)
        assert speeds.bounded(0.5, seen, 60) == pytest.approx(0.5 * (1 - seen) / (1 - share))
    assert speeds.bounded(0.5, 0.0, 6_000) < speeds.bounded(0.5, 0.0, 60) < speeds.bounded(0.5, 0.0, 6)
    assert Speeds(60.0, 0.5).bounded(0.9, 0.0, 60) >= 1, "nothing of such a window bounds it"
    assert Speeds(12.0, 0.31).bounded(0.5, 0.02, 60) < 0.7, "a profile that was disturbed is not the last word"


def test_the_quantile_of_the_window_is_no_less_than_that_of_a_device_that_is_slow_as_often_as_profile_and_window_say_together():
    rng = np.random.default_rng(0)
    fast, slow = rng.normal(1, 0.05, 100_000), rng.normal(1.4, 0.05, 100_000)
    for profiled, seen in ((0.1, 0.0), (0.3, 0.1), (0.3, 0.29), (0.6, 0.2)):
        device, window = (np.r_[fast[: int((1 - part) * 1e5)], slow[: int(part * 1e5)]] for part in ((profiled + seen) / 2, seen))
        bounded = Speeds(5.0, profiled).bounded(0.5, seen, 60)
        assert bounded < 1 and np.quantile(window, bounded) >= np.quantile(device, 0.5)
