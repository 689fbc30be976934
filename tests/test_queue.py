"""A queue of loops gives what each loop gives alone, and no lane waits while there is work."""

import jax
import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxprune.devices import LANES, Mapped, layout
from jaxprune.queue import QUEUE_LANES, Loop, Queued, in_queue, lane_steps, map_queue, queue_width

KEY = jax.random.key(0)
SIZE = 24  # of the queues below, with padding, so that they share programs
LENGTHS = st.lists(st.integers(0, 30), min_size=1, max_size=SIZE)
STEPS: list[int] = []  # an entry per step of a lane


def walk(scale) -> Loop:
    """A random walk of a given number of steps: (the last place, steps)."""

    def step(key, state):
        place, time, length = state
        jax.debug.callback(lambda _: STEPS.append(1), time)
        place += scale * jax.random.normal(jax.random.fold_in(key, time))
        return place, time + 1, length

    return Loop(
        start=lambda item: (item[1], (jnp.float32(0), jnp.int32(0), item[0])),
        step=step,
        done=lambda state: state[1] >= state[2],
        result=lambda state: state[:2],
    )


def walk_alone(scale, item):
    """The same without a queue."""
    loop = walk(scale)
    known, state = loop.start(item)
    return loop.result(
        jax.lax.while_loop(lambda s: ~loop.done(s), lambda s: loop.step(known, s), state)
    )


alone = jax.jit(jax.vmap(walk_alone, (None, 0)))
program = Mapped(walk, in_queue)


def items(lengths):
    return np.array(lengths, np.int32), jax.random.split(KEY, len(lengths))


def padded(lengths) -> Queued:
    """These items and so many more that there are `SIZE`, dealt to both devices."""
    more = [1000] * (SIZE - len(lengths))
    real = np.arange(SIZE) < len(lengths)
    return layout(SIZE, 1).deal(Queued(real, items([*lengths, *more])))


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS, width=st.sampled_from([1, 3, 12]))
def test_a_queue_gives_what_each_item_gives_alone(lengths, width):
    """Also with more lanes than items, with one item, and with none on one of the devices."""
    result = layout(SIZE, 1).collect(program(np.float32(2), padded(lengths), width))
    place, time = (x[: len(lengths)] for x in result)
    expected = alone(np.float32(2), items([*lengths, *[0] * (SIZE - len(lengths))]))
    assert time.tolist() == lengths
    np.testing.assert_allclose(place, expected[0][: len(lengths)], rtol=1e-6, atol=1e-6)


@settings(deadline=None, max_examples=40)
@given(lengths=LENGTHS, width=st.sampled_from([1, 3, 12]))
def test_lanes_take_the_steps_of_a_queue_that_never_starves(lengths, width):
    """As counted by the program itself; padding, of 1000 steps, is not played to its end."""
    STEPS.clear()
    jax.block_until_ready(program(np.float32(2), padded(lengths), width))
    jax.effects_barrier()
    assert len(STEPS) == lane_steps(lengths, width)


def test_lane_steps_by_hand():
    """Device 0 has 5, 2, 2 and device 1 has 1, 1: two lanes of each take 5 and 1 steps."""
    assert lane_steps([5, 1, 2, 1, 2], 2) == 2 * 5 + 2 * 1
    assert lane_steps([5, 1, 2, 1, 2], 1) == 9 + 2
    assert lane_steps([3], 4) == 4 * 3


@given(lengths=LENGTHS, width=st.integers(1, 12))
def test_lanes_idle_less_than_the_longest_item_takes(lengths, width):
    """List scheduling, Graham 1969: only while the last items are played."""
    taken = lane_steps(lengths, width)
    assert sum(lengths) <= taken <= sum(lengths) + 2 * (width - 1) * max(lengths)


def test_a_population_of_any_size_comes_back_in_order():
    for size in (1, 2, 5):
        lengths = np.arange(size)[::-1]
        _, time = map_queue(program, np.float32(1), items(lengths), lanes=2)
        assert time.tolist() == lengths.tolist()


def test_the_lanes_of_a_queue():
    assert queue_width(10**6) == QUEUE_LANES[jax.devices()[0].platform]
    assert queue_width(10**6, lanes=7) == 7
    assert queue_width(5, lanes=7) == 3  # 5 items on 2 devices
    assert QUEUE_LANES.keys() == LANES.keys()


@given(size=st.integers(1, 500), lanes=st.integers(1, 40))
def test_equal_items_are_done_as_soon_and_leave_no_round_half_empty(size, lanes):
    """78 items per device in 32 lanes: three rounds of 26, not of 32, 32 and 14."""
    assert queue_width(156, lanes=32) == 26
    width, share = queue_width(size, lanes), -(-size // 2)
    rounds = -(-share // lanes)
    assert width <= lanes and rounds * width < share + rounds
    assert lane_steps([1] * size, width) <= lane_steps([1] * size, min(lanes, share))
    assert -(-share // width) == rounds
