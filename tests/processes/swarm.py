"""Several real peers on loopback, for tests."""

from types import TracebackType

from benchmarks import processes


class Swarm(processes.Swarm):
    """Shows what the peers printed last when a test fails."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        super().__exit__(kind, error, traceback)
        if error is not None:
            print(self.tails())
