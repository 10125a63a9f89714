"""The one thread in which a round's arithmetic is done, one thing after another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, TypeVar

from peer.replica import Replica
from protocol.codec import Values
from protocol.errors import CodecError, DilocoError
from protocol.events import AveragePart, ContributionRefused, PartAveraged

P = ParamSpec("P")
T = TypeVar("T")


class Arithmetic:
    """The thread, and what rounds ask of it."""

    def __init__(self, replica: Replica) -> None:
        self._replica = replica
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="math")

    async def calculate(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, partial(function, *args, **kwargs))

    async def encode(self, fragment_id: int, local_params: Values) -> tuple[bytes, ...]:
        """The pseudo-gradient part by part; raises DilocoError when there is none."""
        try:
            return await self.calculate(self._replica.encode, fragment_id, local_params)
        except CodecError as error:
            raise DilocoError(
                f"the local parameters of fragment {fragment_id} are broken ({error}): the inner"
                " optimizer diverged; lower inner_optimizer.learning_rate"
            ) from error

    async def average(self, part: AveragePart) -> PartAveraged | ContributionRefused:
        """The encoded mean, or the first contribution that is not usable."""
        replica, roster, part_index = self._replica, part.roster, part.part_index
        try:
            mean = await self.calculate(
                replica.average, part.contributions, part.tokens, part.values
            )
        except CodecError:
            for sender, data in zip(part.senders, part.contributions, strict=True):
                if not await self.calculate(replica.is_usable, data, part.values):
                    return ContributionRefused(roster=roster, part_index=part_index, sender=sender)
            raise
        return PartAveraged(roster=roster, part_index=part_index, data=mean)

    def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)
