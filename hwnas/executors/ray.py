"""Candidates evaluated by Ray (Moritz et al., 2018), on this machine or a cluster; and devices that are leased from it.

Each worker is an actor with one CPU. Ray starts one that died again, and its candidate is evaluated again. A device is a custom resource
`device:NAME` of the node that it is attached to, of which there is 1: whoever measures on it holds that one until he ends.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from typing import Any

from hwnas.errors import InputError, MeasurementFailed, MissingExtra, RunHeld
from hwnas.executor import LIVES, Candidate, Completion, Evaluate, Executor, Made, Prepare, complete, died
from hwnas.executors._failure import Failure, failure, raised
from hwnas.space import Codes

_LEASE_S = 600.0  # that a device is waited for while somebody else measures on it


class Ray:
    """`workers` actors of `cpus` CPUs each.

    address: of a running cluster, `auto` for the one of this machine; without, the one that this process has joined, or one of its own on this machine.
    """

    def __init__(self, prepare: Prepare, workers: int, address: str | None, cpus: int):
        self._ray, self._is_ours = _joined(address, workers * cpus)
        self._actor = self._ray.remote(_Worker).options(num_cpus=cpus, max_restarts=-1, max_task_retries=LIVES - 1)
        self._prepare, self._most = self._ray.put(prepare), workers
        self._queue: deque[tuple[int, Codes, float]] = deque()
        self._idle: list[Any] = []
        self._actors: list[Any] = []
        self._busy: dict[Any, tuple[int, Any]] = {}  # what is to come -> number of the candidate, actor
        self._leased: list[Any] = []

    def submit(self, number: int, candidate: Candidate) -> None:
        self._queue.append((number, candidate.code, candidate.fidelity))
        self._hand_out()

    def wait(self) -> Completion:
        if not self._busy:
            raise RuntimeError("nothing was submitted")
        (done,), _ = self._ray.wait(list(self._busy), num_returns=1)
        number, actor = self._busy.pop(done)
        self._idle.append(actor)
        self._hand_out()
        try:
            answer = self._ray.get(done)
        except self._ray.exceptions.RayActorError as error:
            return died(number, f"as Ray says: {str(error).strip().splitlines()[0]}")
        if isinstance(answer, Failure):
            raise raised(answer)
        return answer  # type: ignore[no-any-return]

    def has(self, device: str) -> bool:
        return bool(self._ray.cluster_resources().get(f"device:{device}"))

    def lease(self, device: str, make: Callable[[], Made]) -> Made:
        """What `make` makes, in a process on the node that has the device, which nobody else measures on until `close`.

        Raises InputError where no node has it, RunHeld where it is not free within ten minutes, MeasurementFailed where it cannot be made there.
        """
        name = f"device:{device}"
        if not self.has(device):
            raise InputError(f"no node of this Ray cluster has the device {device}; start the one that has with: ray start --resources='{{\"{name}\": 1}}'")
        actor = self._ray.remote(_Held).options(num_cpus=0, resources={name: 1}).remote(make)
        self._leased.append(actor)
        try:
            self._ray.get(actor.ready.remote(), timeout=_LEASE_S)
        except self._ray.exceptions.GetTimeoutError:
            raise RunHeld(f"{device} was leased to others for {_LEASE_S:.0f} s; wait until they end, then run the same command again") from None
        except self._ray.exceptions.RayActorError as error:
            raise MeasurementFailed(f"what measures on {device} cannot be started there: {str(error).strip().splitlines()[-1]}") from None
        return _Remote(self._ray, actor)  # type: ignore[return-value]

    def close(self) -> None:
        for actor in [*self._actors, *self._leased]:
            self._ray.kill(actor)
        for each in (self._actors, self._leased, self._idle, self._busy, self._queue):
            each.clear()
        if self._is_ours:
            self._ray.shutdown()  # leaves the cluster, and ends one that was started here

    def _hand_out(self) -> None:
        while self._queue:
            if not self._idle:
                if len(self._actors) == self._most:
                    return
                self._actors.append(self._actor.remote())
                self._idle.append(self._actors[-1])
            actor, (number, code, fidelity) = self._idle.pop(), self._queue.popleft()
            self._busy[actor.evaluate.remote([self._prepare], number, code, fidelity)] = number, actor


def _joined(address: str | None, cpus: int) -> tuple[Any, bool]:
    """(Ray's module, whether this process has joined or started the cluster now). Raises MissingExtra, InputError where there is none at the address."""
    try:
        import ray as module
    except ImportError:
        raise MissingExtra("--executor ray", "ray", "ray") from None
    if module.is_initialized():
        return module, False
    try:
        ours: dict[str, Any] = {"num_cpus": cpus, "include_dashboard": False} if address is None else {}
        module.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **ours)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise InputError(f"there is no Ray cluster at {address or 'this machine'}: {str(error).strip().splitlines()[0]}") from None
    return module, True


class _Worker:
    """An actor that evaluates candidates; it is prepared when the first one comes."""

    def __init__(self) -> None:
        self._evaluate: Evaluate | None = None

    def evaluate(self, prepare: list[Any], number: int, code: Codes, fidelity: float) -> Completion | Failure:
        """prepare: where it is in Ray's store, in a list, so that it is fetched once and not with each candidate."""
        import ray as module

        try:
            if self._evaluate is None:
                self._evaluate = module.get(prepare[0])()
            return complete(number, Candidate(code.copy(order="F"), fidelity, self._evaluate))  # Ray's arrays cannot be written to
        except Exception as error:
            return failure(error)


class _Held:
    """An actor that has something made on the node that it runs on."""

    def __init__(self, make: Callable[[], Any]):
        self._made = make()

    def ready(self) -> bool:
        return True

    def call(self, name: str, arguments: tuple[Any, ...]) -> Any:
        return getattr(self._made, name)(*arguments)


class _Remote:
    """Passes calls on to what an actor holds, and what they raise back."""

    def __init__(self, module: Any, actor: Any):
        self._ray, self._actor = module, actor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            try:
                return self._ray.get(self._actor.call.remote(name, arguments))
            except self._ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except self._ray.exceptions.RayActorError as error:
                raise MeasurementFailed(f"the process that held the device ended: {str(error).strip().splitlines()[0]}") from None

        return call


def ray(prepare: Prepare, workers: int, *, address: str | None = None, cpus: int = 1) -> Executor:
    """Raises MissingExtra, InputError where there is no cluster at the address."""
    if cpus < 1:
        raise InputError(f"ray needs cpus >= 1, got {cpus}")
    return Ray(prepare, workers, address, cpus)
