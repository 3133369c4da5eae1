import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hwnas.errors import InputError
from hwnas.pareto import crowding_distance, domination_ranks, hypervolume, non_dominated

NAN, INF = float("nan"), float("inf")


def by_definition(values):
    """Not beaten: no other row is as good everywhere and better somewhere."""
    return np.array([not any((other <= row).all() and (other < row).any() for other in values) and not np.isnan(row).any() for row in values], bool)


def test_a_point_that_another_beats_in_one_objective_and_equals_in_the_rest_is_off_the_front():
    values = np.array([[1.0, 5.0], [2.0, 3.0], [2.0, 4.0], [3.0, 3.0], [4.0, 1.0]])
    assert non_dominated(values).tolist() == [True, True, False, False, True]


def test_equal_points_stay_on_the_front_together():
    assert non_dominated(np.array([[1.0, 2.0], [1.0, 2.0], [2.0, 1.0], [2.0, 2.0]])).tolist() == [True, True, True, False]


def test_a_failed_candidate_is_never_on_a_front_and_beats_nobody():
    assert non_dominated(np.array([[NAN, 0.0], [1.0, 1.0]])).tolist() == [False, True]
    assert non_dominated(np.array([[NAN, NAN]])).tolist() == [False]


def test_one_objective_leaves_all_rows_with_the_least_value():
    assert non_dominated(np.array([[2.0], [1.0], [1.0]])).tolist() == [False, True, True]


def test_an_infinite_value_is_a_value():
    assert non_dominated(np.array([[1.0, INF], [0.0, INF], [2.0, 0.0]])).tolist() == [False, True, True]


def test_no_rows_give_no_front():
    assert non_dominated(np.empty((0, 2))).tolist() == []


@settings(max_examples=150, deadline=None)
@given(st.integers(1, 4).flatmap(lambda m: arrays(np.float64, st.tuples(st.integers(1, 12), st.just(m)), elements=st.sampled_from([0.0, 1.0, 2.0, 3.0, NAN]))))
def test_the_front_is_what_its_definition_says(values):
    assert non_dominated(values).tolist() == by_definition(values).tolist()


def test_a_vector_is_no_front():
    with pytest.raises(InputError, match=r"\(n, objectives\)"):
        non_dominated(np.array([1.0, 2.0]))


def test_fronts_are_numbered_from_the_one_that_nobody_beats_and_failures_come_last():
    values = np.array([[2.0, 2.0], [1.0, 3.0], [NAN, 0.0], [3.0, 3.0], [2.0, 2.0], [1.0, 4.0], [4.0, 4.0]])
    assert domination_ranks(values).tolist() == [0, 0, 3, 1, 0, 1, 2]


def test_where_everything_failed_there_is_one_number():
    assert domination_ranks(np.array([[NAN], [NAN]])).tolist() == [0, 0]


def test_hypervolume_of_a_staircase_is_the_sum_of_its_steps():
    # corners (1,4) (2,2) (4,1) under (5,5): columns 1..2 of height 1, 2..4 of height 3, 4..5 of height 4 = 1 + 6 + 4
    assert hypervolume(np.array([[4.0, 1.0], [1.0, 4.0], [2.0, 2.0]]), (5, 5)) == 11.0


def test_hypervolume_ignores_what_is_dominated_repeated_failed_or_outside():
    values = np.array([[1.0, 4.0], [2.0, 2.0], [4.0, 1.0], [2.0, 2.0], [3.0, 3.0], [0.0, 5.0], [9.0, 0.0], [NAN, 0.0]])
    assert hypervolume(values, (5, 5)) == 11.0


def test_hypervolume_in_three_dimensions_is_the_union_of_boxes():
    # boxes 1x1x3 and 3x1x1 along two axes of a corner at the origin's far side: 3 + 3 - their common 1x1x1
    values = np.array([[2.0, 2.0, 0.0], [0.0, 2.0, 2.0]])
    assert hypervolume(values, (3, 3, 3)) == 5.0


def test_hypervolume_in_one_dimension_is_a_length():
    assert hypervolume(np.array([[3.0], [1.0]]), (4,)) == 3.0


def test_nothing_covers_nothing():
    assert hypervolume(np.empty((0, 2)), (1, 1)) == 0.0
    assert hypervolume(np.array([[1.0, 0.0]]), (1, 1)) == 0.0  # not better than the reference everywhere


@settings(max_examples=60, deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(1, 7), st.just(3)), elements=st.integers(0, 5)))
def test_hypervolume_equals_counting_unit_cubes(values):
    cubes = np.indices((5, 5, 5)).reshape(3, -1).T  # lower corners
    covered = (cubes[:, None] >= values[None]).all(axis=2).any(axis=1).sum()
    assert hypervolume(values.astype(float), (5, 5, 5)) == covered


def test_a_reference_of_the_wrong_length_is_refused():
    with pytest.raises(InputError, match="needs 2 finite numbers"):
        hypervolume(np.array([[1.0, 2.0]]), (3, 3, 3))


def test_crowding_distance_is_the_scaled_gap_between_the_neighbours():
    # first objective spans 4, second 8: (2, 4) has neighbours (0, 8) and (3, 1): (3 - 0) / 4 + (8 - 1) / 8
    distance = crowding_distance(np.array([[2.0, 4.0], [0.0, 8.0], [4.0, 0.0], [3.0, 1.0]]))
    assert distance.tolist() == [3 / 4 + 7 / 8, INF, INF, (4 - 2) / 4 + (4 - 0) / 8]


def test_duplicates_share_the_crowding_distance_of_one_point():
    distance = crowding_distance(np.array([[0.0, 2.0], [1.0, 1.0], [1.0, 1.0], [2.0, 0.0]]))
    assert distance.tolist() == [INF, 2.0, 2.0, INF]


def test_an_objective_without_spread_does_not_crowd_and_a_failed_row_has_no_distance():
    distance = crowding_distance(np.array([[0.0, 7.0], [1.0, 7.0], [3.0, 7.0], [NAN, 7.0]]))
    assert distance[0] == distance[2] == INF and distance[3] == 0.0
