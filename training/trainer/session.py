"""What surrounds one training: progress outwards, the wish to stop inwards, checkpoints for the next attempt."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from training.trainer.checkpoints import Checkpoints
from training.trainer.errors import Preempted
from training.trainer.models import Device, Session, State, Step
from training.trainer.options import Json
from training.trainer.progress import Progress


class LiveSession:
    """The `Session` of a real run. `stop_requested` is asked between two units of work."""

    def __init__(
        self, progress: Progress, stop_requested: Callable[[], bool], checkpoints: Checkpoints | None = None
    ) -> None:
        self._progress = progress
        self._stop_requested = stop_requested
        self._checkpoints = checkpoints
        self._unit = "step"
        self._done = self._total = 0
        self._is_refused = False

    def start(self, total: int, unit: str) -> None:
        """See `Session`."""
        self._total, self._unit = total, unit
        self._progress.start(total, unit)

    def resume(self) -> Mapping[str, bytes] | None:
        """See `Session`."""
        if self._checkpoints is None or self._is_refused:
            return None
        return self._checkpoints.newest()

    def refuse(self, why: str) -> None:
        """See `Session`."""
        self._is_refused = True
        self._progress.warn(f"the checkpoint cannot be gone on from ({why}); the training starts anew")

    def tick(self, state: State) -> None:
        """See `Session`."""
        stops = self._stop_requested()
        kept = "nothing of it is kept, for there is no folder for checkpoints"
        if self._checkpoints is not None and (stops or self._checkpoints.is_due):
            kept = self._saved(self._checkpoints, state)
        if stops:
            raise Preempted(f"stopped on request after {self._unit} {self._done} of {self._total}; {kept}")

    def _saved(self, checkpoints: Checkpoints, state: State) -> str:
        try:
            files = state()
        except MemoryError as error:
            checkpoints.give_up(error)
            return "its checkpoint could not be written"
        if not files:
            return "there is nothing yet that the next attempt could go on from"
        if not checkpoints.save(files):
            return "its checkpoint could not be written"
        return "a checkpoint is kept for the next attempt"

    def step(self, step: Step, state: State) -> None:
        """See `Session`."""
        self._done, self._total = step.step, step.total
        metric = {} if step.validation_loss is None else {"validation_loss": step.validation_loss}
        self._progress.step(step.step, step.total, step.loss, metric)
        self.tick(state)

    def complete(self) -> None:
        """The results are written: no attempt will go on from here."""
        if self._checkpoints is not None:
            self._checkpoints.clear()


@dataclass(frozen=True)
class Surroundings:
    """What a job is given by the program that runs it.

    `check_stop` may raise Preempted and is called between two pieces of work outside the training itself;
    `open_session` makes the session of a training with the given identity (see `checkpoints.identity_of`).
    """

    progress: Progress
    check_stop: Callable[[], None]
    open_session: Callable[[Mapping[str, Json]], Session]
    device: Device = "cpu"
    threads: int = 1
