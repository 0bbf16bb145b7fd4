"""What a node does and when: a pure model with time as an argument.

The model does what an Ollama node was seen to do: requests for a loaded model wait for a slot in order of arrival, loads
happen one after another, a model that must leave is asked to once it has nothing in flight (while new requests for it are
still let in), another context size means another runner, and a client that leaves frees its slot at once.

All that runs on a node runs at the same fraction of its speed alone, so one clock of work (`_work`, in seconds of running
alone) is enough: a request ends at a fixed point of that clock, however the others come and go. Nothing happens per token.
"""

from __future__ import annotations

import heapq
from collections import deque
from math import inf

from sollol.core.types import Counters
from sollol.emulator.runner import Job, Runner
from sollol.emulator.specs import (
    Finished,
    FirstToken,
    Happening,
    Loaded,
    ModelSpec,
    NodeSpec,
    Refused,
    Residency,
    Unloaded,
    Work,
)


class NodeModel:
    """One node. All times are seconds on the caller's clock and must not go back; handles are unique per node.

    `models` may be changed between calls (a model pulled or deleted); what runs then ends as it began.
    """

    def __init__(self, spec: NodeSpec, now: float = 0.0) -> None:
        self.spec = spec
        self.models = {m.name: m for m in spec.models}
        self.loads = 0
        self._now = now
        self._work = 0.0
        self._speed = 0.0
        self._slow = 1.0
        self._running = 0
        self._due: list[tuple[float, int, Job]] = []
        self._jobs: dict[int, Job] = {}
        self._last = 0
        self._out: list[Happening] = []
        self._runners: dict[str, Runner] = {}
        self._pending: deque[Job] = deque()
        self._hand: Job | None = None
        self._victim: Runner | None = None
        self._load_end = inf
        self._expiry = inf
        self._preload()

    # What is asked of the node

    def submit(self, work: Work, now: float) -> int:
        """Take a request and return its handle. Raises KeyError for a model that the node does not have."""
        model = self.models[work.model]
        self._run(now)
        self._last += 1
        job = Job(self._last, work, model, self._now)
        self._jobs[job.handle] = job
        runner = self._fitting(job)
        if runner is not None:
            self._admit(job, runner)
        elif self._hand is not None and len(self._pending) >= self.spec.max_queue:
            self._forget(job)
            self._out.append(Refused(self._now, job.handle))
        else:
            self._pending.append(job)
            self._schedule()
        return job.handle

    def cancel(self, handle: int, now: float) -> None:
        """The client left: its slot is free at once. Unknown and finished handles are ignored."""
        self._run(now)
        job = self._jobs.get(handle)
        if job is None:
            return
        self._forget(job)
        if job.runner is not None and job.slot is not None:
            if self._work < job.first:
                job.runner.hold(job.slot, frozenset())
            self._release(job)
        elif job.runner is not None:
            job.runner.waiting.remove(job)
            self._settle(job.runner)
        elif job is self._hand and self._load_end < inf:
            self._load_end = inf  # nobody else waits for this very load: the node gives it up
            self._hand = None
            self._schedule()
        # Waiting to be loaded: it keeps its place, and if it is the next one it still drives out what is loaded.

    def unload(self, model: str, now: float) -> None:
        """Have `model` leave as soon as nothing runs in it (at once if idle); new requests are still let in meanwhile."""
        self._run(now)
        runner = self._runners.get(self.models[model].digest)
        if runner is not None and not self.spec.always_resident:
            runner.keep_alive = 0.0
            runner.expires = self._now
            self._settle(runner)

    def set_slow(self, factor: float, now: float) -> None:
        """Everything that runs takes `factor` times as long from now on (infinity: it stands still)."""
        self._run(now)
        self._slow = factor
        self._set_speed()

    def crash(self, now: float) -> list[int]:
        """The node loses everything at once; returns the handles that were in it, which never finish."""
        self._run(now)
        lost = list(self._jobs)
        for job in list(self._jobs.values()):
            self._forget(job)
        self._pending.clear()
        self._due.clear()
        self._running = 0
        self._hand = self._victim = None
        self._load_end = self._expiry = inf
        self._preload()
        self._set_speed()
        return lost

    # What happens by itself

    def next_time(self) -> float | None:
        """When something will next happen by itself; None if nothing will."""
        if self._out:
            return self._now
        return when if (when := self._next()) < inf else None

    def advance(self, now: float) -> list[Happening]:
        """Let time pass to `now`; everything that happened since the last call, in order."""
        self._run(now)
        out, self._out = self._out, []
        return out

    # What can be seen

    def tokens(self, handle: int, now: float) -> int:
        """Tokens of the answer written by `now`, as things stand; 0 for a handle that waits or is over."""
        job = self._jobs.get(handle)
        if job is None or job.slot is None:
            return 0
        done = self._work + max(0.0, now - self._now) * self._speed - job.first
        if done < -1e-9:
            return 0
        return min(job.work.output_tokens, int(done * job.rate + 1e-6) + 1)

    def time_of_token(self, handle: int, k: int) -> float | None:
        """When the `k`-th token (from 1) will be out as things stand; None if it will not, or is not foreseeable yet."""
        job = self._jobs.get(handle)
        if job is None or job.slot is None or k > job.work.output_tokens or not self._speed:
            return None
        return self._now + max(0.0, job.first + (k - 1) / job.rate - self._work) / self._speed

    def resident(self, now: float) -> list[Residency]:
        """The loaded models, the one that leaves last first (a loading one is not among them)."""
        self._run(now)
        gpu = self.spec.gpu
        found = [
            Residency(r.model, r.num_ctx, r.size, r.size if gpu else 0, r.expires, r.busy, len(r.waiting))
            for r in self._runners.values()
        ]
        return sorted(found, key=lambda r: -r.expires_at)

    @property
    def running(self) -> int:
        """Requests that hold a slot."""
        return self._running

    @property
    def in_flight(self) -> int:
        """Requests in the node, running or waiting."""
        return len(self._jobs)

    @property
    def loading(self) -> ModelSpec | None:
        """The model that is being loaded."""
        return self._hand.model if self._hand is not None and self._load_end < inf else None

    # The clock

    def _next(self) -> float:
        due = self._due
        while due and due[0][2].over:
            heapq.heappop(due)
        when = self._load_end if self._load_end < self._expiry else self._expiry
        if due and self._speed:
            left = due[0][0] - self._work
            first = self._now + left / self._speed if left > 0.0 else self._now
            if first < when:
                return first
        return when

    def _run(self, now: float) -> None:
        while (when := self._next()) <= now:
            self._to(when)
            if self._load_end <= when:
                self._finish_load()
            elif self._expiry <= when:
                self._expire()
            else:
                self._work = max(self._work, self._due[0][0])  # exactly there: no rounding can hold it back
                self._step(heapq.heappop(self._due)[2])
        self._to(now)

    def _to(self, now: float) -> None:
        if now > self._now:
            self._work += (now - self._now) * self._speed
            self._now = now

    def _set_speed(self) -> None:
        others = self._running - 1
        self._speed = 0.0 if others < 0 else 1.0 / ((1.0 + self.spec.contention * others) * self._slow)

    # Running

    def _admit(self, job: Job, runner: Runner) -> None:
        work = job.work
        job.runner = runner
        job.admitted = self._now
        if work.keep_alive is not None and not self.spec.always_resident:
            runner.keep_alive = inf if work.keep_alive < 0 else work.keep_alive
        if work.load_only:
            self._finish(job)
            self._settle(runner)
        elif runner.busy < runner.slots:
            self._start(job, runner)
            self._set_expiry()
        else:
            runner.waiting.append(job)

    def _start(self, job: Job, runner: Runner) -> None:
        work = job.work
        job.slot, job.cached = runner.take(work)
        self._running += 1
        self._set_speed()
        job.started = self._now
        if self.spec.fixed_delay is None:
            job.rate = runner.decode
            job.first = self._work + (work.prompt_tokens - job.cached) / runner.prefill
        else:
            # Half of the fixed time passes before the first token, so that a stream has a first byte and a length.
            job.rate = 2 * max(1, work.output_tokens) / self.spec.fixed_delay
            job.first = self._work + self.spec.fixed_delay / (2 if work.output_tokens else 1)
        heapq.heappush(self._due, (job.first, job.handle, job))

    def _step(self, job: Job) -> None:
        """The job reached its first token or, if that is behind it or there is none, its end."""
        outputs = job.work.output_tokens
        if not job.decoding:
            job.first_at = self._now
        if job.decoding or not outputs:
            self._finish(job)
            return
        job.decoding = True
        self._out.append(FirstToken(self._now, job.handle))
        heapq.heappush(self._due, (job.first + outputs / job.rate, job.handle, job))

    def _finish(self, job: Job) -> None:
        self._forget(job)
        if job.runner is not None and job.slot is not None and job.work.after is not None:
            job.runner.hold(job.slot, job.slot.hashes | {job.work.after[1]})
        self._out.append(Finished(self._now, job.handle, self._counters(job)))
        self._release(job)

    def _counters(self, job: Job) -> Counters:
        work = job.work
        load = job.admitted - job.arrived
        if work.load_only:
            return Counters(total=load, load=load, done_reason="load")
        return Counters(
            prompt_tokens=work.prompt_tokens,
            output_tokens=work.output_tokens,
            cached_tokens=job.cached,
            total=self._now - job.arrived,
            load=load,
            prefill=job.first_at - job.started,
            decode=self._now - job.first_at,
            done_reason=work.done_reason,
        )

    def _release(self, job: Job) -> None:
        """Free the slot of `job` and give it to the next in line."""
        runner, slot = job.runner, job.slot
        if runner is None or slot is None:
            return
        runner.give_back(slot)
        self._running -= 1
        self._set_speed()
        if runner.waiting:
            self._start(runner.waiting.popleft(), runner)
        else:
            self._settle(runner)

    def _forget(self, job: Job) -> None:
        job.over = True
        del self._jobs[job.handle]

    # Loading and leaving

    def _preload(self) -> None:
        models = self.models.values() if self.spec.always_resident else ()
        self._runners = {m.digest: Runner(m, min(self.spec.context, m.context_length), self.spec) for m in models}

    def _fitting(self, job: Job) -> Runner | None:
        """The loaded runner that can take `job` as it is: of its model and of its context size."""
        runner = self._runners.get(job.model.digest)
        if runner is None or self.spec.always_resident:
            return runner
        return runner if runner.num_ctx == self._context(job) else None

    def _context(self, job: Job) -> int:
        return min(job.work.num_ctx or self.spec.context, job.model.context_length)

    def _schedule(self) -> None:
        """Bring the next waiting request in: to a runner that is there by now, or to a load, or to the wait for room."""
        while self._load_end == inf and self._victim is None:
            if self._hand is None:
                if not self._pending:
                    return
                self._hand = self._pending.popleft()
                if self._hand.over:
                    self._hand = None
                    continue
            self._advance_hand(self._hand)

    def _advance_hand(self, job: Job) -> None:
        runner = self._fitting(job)
        if job.over or runner is not None:
            self._hand = None
            if runner is not None and not job.over:
                self._admit(job, runner)
            return
        victim = self._runners.get(job.model.digest) or self._must_leave(job)
        if victim is None:
            self._load_end = self._now + self.spec.load_seconds(job.model)
            self.loads += 1
        elif victim.idle:
            self._remove(victim)
        else:
            victim.keep_alive = 0.0
            self._victim = victim

    def _must_leave(self, job: Job) -> Runner | None:
        """Whom `job`'s model drives out: an idle runner of the shortest keep_alive; if all are busy, a busy one of those."""
        runners = self._runners.values()
        slots = 1 if job.model.embeds else self.spec.slots
        size = job.model.size + job.model.kv_bytes(self._context(job) * slots)
        fits = sum(r.size for r in runners) + size <= self.spec.memory
        if not runners or (fits and len(runners) < self.spec.max_loaded):
            return None
        return min(runners, key=lambda r: (not r.idle, r.keep_alive, r.expires))

    def _finish_load(self) -> None:
        job = self._hand
        self._load_end = inf
        self._hand = None
        if job is None:
            return
        runner = Runner(job.model, self._context(job), self.spec)
        self._runners[job.model.digest] = runner
        self._out.append(Loaded(self._now, job.model.name, runner.num_ctx))
        self._admit(job, runner)
        self._schedule()

    def _settle(self, runner: Runner) -> None:
        """A request of `runner` ended: if it was the last one, its time to live starts."""
        if not runner.idle:
            return
        runner.expires = self._now + runner.keep_alive
        if runner.expires <= self._now or runner is self._victim:  # let in requests may have asked for a longer life
            self._remove(runner)
            self._schedule()
        else:
            self._set_expiry()

    def _expire(self) -> None:
        for runner in [r for r in self._runners.values() if r.idle and r.expires <= self._now]:
            self._remove(runner)
        self._schedule()

    def _remove(self, runner: Runner) -> None:
        if self._runners.get(runner.model.digest) is runner:
            del self._runners[runner.model.digest]
            self._out.append(Unloaded(self._now, runner.model.name, runner.num_ctx))
        if self._victim is runner:
            self._victim = None
        self._set_expiry()

    def _set_expiry(self) -> None:
        self._expiry = min((r.expires for r in self._runners.values() if r.idle), default=inf)
