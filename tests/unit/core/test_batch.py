"""Batches: who takes what, in virtual time, with nodes that are as slow, as dead and as picky as a case wants."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sollol.core.batch import AGAIN_SECONDS, MAX_UNSENT, MOST, Board, Fault
from sollol.core.lanes import Flight, Lane, Offer, Past

TICK = 0.05


@dataclass
class Machine:
    """``seconds`` an item takes; from ``dies`` on nothing is answered, from ``hangs`` on nothing ends."""

    seconds: float
    dies: float = float("inf")
    hangs: float = float("inf")
    load: float = 0.0
    refuses: frozenset[int] = frozenset()
    breaks: frozenset[int] = frozenset()
    overhead: float = 0.002
    free_at: float = 0.0


@dataclass
class World:
    """Runs a batch on machines in virtual time: one request at a time on each, others wait there."""

    machines: dict[str, Machine]
    items: int
    known: bool = True
    board: Board = field(default_factory=Board)
    now: float = 0.0
    results: dict[int, str] = field(default_factory=dict)
    errors: dict[int, tuple[Exception, ...]] = field(default_factory=dict)
    sizes: dict[str, list[int]] = field(default_factory=dict)
    runs: int = 0

    def run(self, limit: float = 300.0) -> World:
        ids, ends, gone = count(), [], set()
        if self.known:
            self.board.expect(self.items)
        self.board.offer(range(self.items))
        self.board.end()
        while not self.board.over:
            assert self.now < limit, "it does not come to an end"
            stranded = self.board.survey(self.offers())
            for flight in stranded:
                if flight not in gone and self.machines[flight.node].dies <= self.now:
                    gone.add(flight)
                    self.failed(flight, Fault.LOST)
            for flight in self.board.begin(self.now):
                heapq.heappush(ends, (self.end(flight), next(ids), flight))
            step = self.now + TICK
            while ends and ends[0][0] <= step:
                self.now, _, flight = heapq.heappop(ends)
                if flight in gone:
                    continue
                gone.add(flight)
                self.ended(flight)
                gone.update(self.board.spent())
                for begun in self.board.begin(self.now):
                    heapq.heappush(ends, (self.end(begun), next(ids), begun))
            self.now = max(self.now, step)
        return self

    def offers(self) -> Mapping[str, Offer]:
        alive = {name: machine for name, machine in self.machines.items() if machine.dies > self.now}
        return {name: Offer(ready_in=machine.load) for name, machine in alive.items()}

    def end(self, flight: Flight) -> float:
        machine = self.machines[flight.node]
        self.runs += len(flight.items)
        assert self.runs < 60 * self.items + 100, "the same again and again"
        self.sizes.setdefault(flight.node, []).append(len(flight.items))
        begin = max(self.now, machine.free_at) + machine.load
        machine.load = 0.0
        machine.free_at = end = begin + machine.overhead + machine.seconds * len(flight.items)
        return end if end < machine.hangs else float("inf")

    def ended(self, flight: Flight) -> None:
        machine = self.machines[flight.node]
        if self.now >= machine.dies:
            self.failed(flight, Fault.LOST)
        elif machine.refuses.intersection(flight.items):
            self.failed(flight, Fault.REFUSED)
        elif machine.breaks.intersection(flight.items):
            self.failed(flight, Fault.LOST)
        else:
            for place in self.board.done(flight, self.now):
                assert flight.items[place] not in self.results
                self.results[flight.items[place]] = flight.node

    def failed(self, flight: Flight, fault: Fault) -> None:
        self.errors.update(self.board.failed(flight, self.now, fault, RuntimeError(flight.node)))

    def ideal(self) -> float:
        return self.items / sum(1.0 / machine.seconds for machine in self.machines.values())


@pytest.mark.parametrize(
    ("items", "bound"),
    [(30, 1.25), (60, 1.25), (600, 1.06), (10_000, 1.02)],
)
def test_unequal_nodes_are_done_at_the_same_time(items, bound):
    world = World({"fast": Machine(0.020), "slow": Machine(0.110)}, items).run()
    assert len(world.results) == items
    assert world.now <= bound * world.ideal() + TICK
    assert not world.errors


@pytest.mark.parametrize("paces", [(0.02,), (0.02, 0.02, 0.02), (0.01, 0.05, 0.1, 0.5), (0.001, 0.3)])
@pytest.mark.parametrize("items", [1, 7, 400])
def test_any_nodes_any_number(paces, items):
    world = World({str(place): Machine(pace) for place, pace in enumerate(paces)}, items).run()
    assert len(world.results) == items
    assert world.now <= 1.06 * world.ideal() + 2 * min(paces) + 0.01 + 2 * TICK


def test_a_request_grows_from_one_item_to_a_second_of_work():
    world = World({"fast": Machine(0.020), "slow": Machine(0.110)}, 2_000).run()
    fast, slow = world.sizes["fast"], world.sizes["slow"]
    assert fast[0] == slow[0] == 1
    assert 40 <= max(fast) <= 50
    assert 8 <= max(slow) <= 9
    assert all(later <= 2 * max(fast[: place + 1]) for place, later in enumerate(fast[1:]))


def test_no_request_is_larger_than_the_limit():
    assert max(World({"a": Machine(0.0001)}, 5_000).run().sizes["a"]) == MOST
    assert max(World({"a": Machine(0.0001)}, 5_000, board=Board(most=8)).run().sizes["a"]) == 8


def test_a_node_that_is_far_slower_does_not_hold_up_the_end():
    for items in (30, 300, 3_000):
        world = World({"fast": Machine(0.020), "slow": Machine(6.0)}, items).run()
        assert len(world.results) == items
        assert world.now <= 1.2 * 0.020 * items + TICK


@pytest.mark.parametrize("since", [0.0, 2.0, 5.0])
def test_a_node_that_hangs_costs_no_item(since):
    world = World({"fast": Machine(0.020), "stuck": Machine(0.020, hangs=since)}, 600).run()
    assert len(world.results) == 600
    assert world.now <= 1.2 * (since + (600 - since * 100) * 0.020) + 2.0


def test_a_lone_node_that_nobody_knows_helps_out():
    """One item only, and it is stuck: the other node was never asked."""
    world = World({"stuck": Machine(0.020, hangs=0.0), "other": Machine(0.020)}, 1).run()
    assert world.results == {0: "other"}


def test_a_node_that_dies_half_way_loses_nothing():
    world = World({"fast": Machine(0.020, dies=5.0), "slow": Machine(0.110)}, 600).run()
    assert len(world.results) == 600
    assert not world.errors
    done = sum(1 for node in world.results.values() if node == "fast") + 5.0 / 0.110
    assert world.now <= 1.15 * (5.0 + (600 - done) * 0.110)


def test_a_bad_item_costs_its_neighbours_nothing():
    bad = frozenset({17, 18, 300})
    world = World({"a": Machine(0.01, refuses=bad), "b": Machine(0.01, refuses=bad)}, 400).run()
    assert world.errors.keys() == bad
    assert world.results.keys() == set(range(400)) - bad
    assert world.runs < 800


def test_an_item_that_one_node_cannot_do_is_done_by_another():
    world = World({"a": Machine(0.01, breaks=frozenset(range(0, 200, 50))), "b": Machine(0.03)}, 200).run()
    assert not world.errors
    assert {world.results[item] for item in range(0, 200, 50)} == {"b"}


def test_an_item_that_breaks_every_node_is_given_up_with_what_each_said():
    bad = frozenset({5})
    world = World({name: Machine(0.01, breaks=bad) for name in "abcd"}, 50).run()
    assert world.errors.keys() == bad
    assert len({str(error) for error in world.errors[5]}) == len(world.errors[5]) >= 2
    assert len(world.results) == 49


def test_a_single_node_is_asked_twice_before_an_item_is_given_up():
    world = World({"a": Machine(0.01, breaks=frozenset({0}))}, 1).run()
    assert len(world.errors[0]) == 2


def test_a_node_that_has_to_load_first_is_used_when_it_is_worth_it():
    few = World({"warm": Machine(0.02), "cold": Machine(0.02, load=5.0)}, 50).run()
    assert "cold" not in few.sizes
    many = World({"warm": Machine(0.02), "cold": Machine(0.02, load=5.0)}, 2_000).run()
    assert sum(many.sizes["cold"]) > 500
    assert many.now < 24.0
    only = World({"cold": Machine(0.02, load=5.0), "too": Machine(0.02, load=9.0)}, 10).run()
    assert len(only.results) == 10


def test_what_was_learned_earlier_is_believed():
    board = Board()
    board.survey({"a": Offer(speed=50.0), "b": Offer(speed=10.0)})
    board.offer(range(600))
    board.end()
    sizes = {flight.node: len(flight.items) for flight in reversed(board.begin(0.0))}
    assert sizes == {"a": 24, "b": 4}


def test_what_is_yet_to_be_read_counts():
    """Three inputs are here of a hundred: no reason to take them one by one, or to do them twice."""
    board = Board()
    board.survey({"a": Offer(speed=50.0), "b": Offer(speed=0.1)})
    board.expect(100)
    board.offer(range(3))
    assert [(flight.node, flight.items) for flight in board.begin(0.0)] == [("a", [0, 1, 2])]
    assert board.begin(9.0) == []
    board.skip(1)
    board.offer([4])
    assert board.waiting == 1
    assert not board.over


def test_workers_are_never_more():
    board = Board(fixed=2, workers=3)
    board.survey({"": Offer(limit=100, width=100)})
    board.offer(range(20))
    first = board.begin(0.0)
    assert [flight.items for flight in first] == [[0, 1], [2, 3], [4, 5]]
    assert board.begin(0.0) == []
    assert board.done(first[0], 1.0) == [0, 1]
    assert [flight.items for flight in board.begin(1.0)] == [[6, 7]]


def test_what_routing_has_placed_runs_once_more_when_it_is_late():
    board = Board(fixed=1)
    board.survey({"": Offer(limit=4, width=4)})
    board.offer(range(4))
    board.end()
    flights = board.begin(0.0)
    for flight in flights[1:]:
        board.done(flight, 1.0)
    assert board.begin(2.9) == []
    (copy,) = board.begin(3.1)
    assert (copy.items, copy.beside) == ([0], flights[0])
    assert board.begin(3.2) == []
    assert board.done(copy, 4.0) == [0]
    assert board.spent() == [flights[0]]
    assert board.over


def test_a_second_run_that_fails_leaves_the_first_one_as_it_is_where_routing_placed_it():
    board = Board(fixed=1)
    board.survey({"": Offer(limit=4, width=4)})
    board.offer([0])
    board.end()
    (flight,) = board.begin(0.0)
    (copy,) = board.begin(50.0)
    assert board.failed(copy, 51.0, Fault.LOST, RuntimeError()) == {}
    assert board.begin(90.0) == []
    assert board.done(flight, 100.0) == [0]


def test_a_second_run_that_finds_no_node_is_thought_of_again():
    board = Board(fixed=1)
    board.survey({"": Offer(limit=4, width=4)})
    board.offer([0])
    board.end()
    (flight,) = board.begin(0.0)
    (copy,) = board.begin(50.0)
    board.back(copy, 50.0)
    assert board.waiting == 0
    (again,) = board.begin(50.1)
    assert board.done(again, 51.0) == [0]
    assert board.failed(flight, 52.0, Fault.LOST, RuntimeError()) == {}
    assert board.over


def test_a_first_run_that_fails_leaves_the_second_one_as_the_only_one():
    board = Board()
    offers = {"a": Offer(limit=1, speed=10.0), "b": Offer(limit=1, speed=10.0), "c": Offer(limit=1, speed=10.0)}
    board.survey({"a": offers["a"]})
    board.offer([0])
    board.end()
    (first,) = board.begin(0.0)
    board.survey(offers)
    (second,) = board.begin(5.0)
    assert board.failed(first, 6.0, Fault.LOST, RuntimeError()) == {}
    (third,) = [flight for flight in board.begin(20.0) if flight.node != second.node]
    assert board.failed(third, 21.0, Fault.LOST, RuntimeError("c")) == {}
    assert second.items == [-1]
    assert board.spent() == [second]
    assert board.waiting == 1


def test_a_request_that_routing_could_not_place_anywhere_is_given_up():
    board = Board(fixed=1)
    board.survey({"": Offer(limit=4, width=4)})
    board.offer([7])
    (flight,) = board.begin(0.0)
    error = RuntimeError("all nodes failed")
    assert board.failed(flight, 1.0, Fault.LOST, error) == {7: (error,)}


def test_a_node_that_takes_nothing_now_is_asked_later_each_time():
    board = Board()
    board.survey({"a": Offer()})
    board.offer([0])
    now, pauses = 0.0, []
    while not board.over and len(pauses) < 2 * MAX_UNSENT:
        (flight,) = board.begin(now)
        error = RuntimeError("busy")
        given_up = board.failed(flight, now, Fault.UNSENT, error)
        if given_up:
            assert len(given_up[0]) == 8
            break
        assert board.begin(now) == []
        pauses.append(board.lanes["a"].paused_until - now)
        now = max(board.lanes["a"].paused_until, now + AGAIN_SECONDS)
    assert len(pauses) == MAX_UNSENT - 1
    assert pauses[:3] == pytest.approx([0.1, 0.2, 0.4])
    assert max(pauses) == pytest.approx(5.0)


def test_what_is_taken_back_is_as_if_nobody_had_taken_it():
    board = Board()
    board.survey({"a": Offer(speed=50.0), "b": Offer(speed=50.0)})
    board.offer(range(8))
    board.end()
    begun = {flight.node: flight for flight in reversed(board.begin(0.0))}
    stranded = board.survey({"b": Offer()})
    assert {flight.node for flight in stranded} == {"a"}
    for flight in stranded:
        board.back(flight, 0.1)
    assert board.usable
    assert board.survey({"b": Offer()}) == []
    assert board.lanes.keys() == {"b"}
    assert begun["a"].items[0] in board.unsettled
    assert board.drop_rest() == list(range(8))
    assert board.over


def test_second_runs_are_shared_and_the_first_result_counts():
    board = Board()
    offers = {"a": Offer(limit=1, speed=10.0), "b": Offer(limit=1, speed=10.0), "c": Offer(limit=1, speed=10.0)}
    board.survey({"a": offers["a"]})
    board.offer(range(4))
    board.end()
    (first,) = board.begin(0.0)
    assert board.done(first, 0.4) == [0, 1]
    (last,) = board.begin(0.4)
    board.done(last, 0.5)
    (stuck,) = board.begin(0.5)
    board.survey(offers)
    assert board.begin(0.6) == []
    copies = board.begin(5.0)
    assert [copy.items for copy in copies] == [stuck.items]
    assert board.done(copies[0], 5.1) == [0]
    assert board.done(stuck, 5.2) == []
    assert board.over


# --- one node


def test_speed_is_that_of_the_node_however_requests_overlap():
    lane = Lane("a")
    lane.take(Offer(limit=3, width=2))
    one, two = (lane.flight([0, 1], None, 0.0) for _ in range(2))
    lane.flights += [one, two]
    lane.ended(one, 1.0)
    assert lane.speed == 2.0
    lane.ended(two, 1.01)
    assert lane.speed == 2.0
    later = lane.flight([2, 3], None, 1.01)
    lane.flights.append(later)
    lane.ended(later, 2.01)
    assert lane.speed == pytest.approx(2.0)


def test_time_in_which_the_model_was_loaded_is_no_speed():
    lane = Lane("a")
    lane.take(Offer(ready_in=5.0))
    flight = lane.flight([0], None, 0.0)
    lane.flights.append(flight)
    lane.ended(flight, 5.1)
    assert lane.speed is None
    assert lane.ready_in == 0.0


def test_a_node_that_is_behind_is_believed_to_be_as_slow_as_it_shows():
    lane = Lane("a", speed=10.0)
    assert lane.believed(0.0) == 10.0
    lane.flights.append(lane.flight([0] * 10, None, 0.0))
    assert lane.believed(1.0) == 10.0
    assert lane.rest(0, 0.25) == pytest.approx(0.75)
    assert lane.believed(5.0) == 2.0
    assert lane.rest(0, 5.0) == pytest.approx(5.0)


def test_what_was_said_of_many_says_nothing_about_one():
    past = Past().after("a", RuntimeError("x"), unsent=True).after("b", RuntimeError("y"), unsent=False)
    assert (past.avoid, past.unsent, len(past.errors)) == ({"a", "b"}, 1, 2)
    assert past.together() == Past(frozenset({"a", "b"}), (), 1)


# --- whatever happens


machines = st.builds(
    Machine,
    seconds=st.sampled_from([0.001, 0.02, 0.11, 3.0]),
    dies=st.sampled_from([float("inf"), 0.5, 2.0]),
    hangs=st.sampled_from([float("inf"), float("inf"), 1.0]),
    load=st.sampled_from([0.0, 0.0, 2.0]),
    breaks=st.frozensets(st.integers(0, 60), max_size=4),
)
Build = Callable[[], World]


@given(
    unreliable=st.lists(machines, max_size=4),
    refused=st.frozensets(st.integers(0, 60), max_size=4),
    items=st.integers(0, 60),
    known=st.booleans(),
)
def test_every_item_gets_one_result_or_one_reason(unreliable, refused, items, known):
    named = {str(place): machine for place, machine in enumerate([*unreliable, Machine(0.05)])}
    for machine in named.values():
        machine.refuses = refused
    world = World(named, items, known).run()
    assert world.results.keys() | world.errors.keys() == set(range(items))
    assert not world.results.keys() & world.errors.keys()
    assert refused & set(range(items)) <= world.errors.keys()
    assert not world.board.flights or world.board.over
    broken = frozenset().union(*(machine.breaks for machine in named.values()))
    if sum(machine.dies < 9.0 for machine in named.values()) < 2:  # else an item may have met all of those
        assert world.errors.keys() <= refused | broken
