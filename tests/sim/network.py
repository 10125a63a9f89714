"""What the network does to a message; everything by chance comes from one seeded source."""

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """How bad the network is. Different delays of two messages are what reorders them."""

    delay_s: tuple[float, float] = (0.02, 0.02)
    loss: float = 0.0
    """Probability that a control message or a part vanishes, and nobody is told."""
    duplication: float = 0.0
    """Probability that a message arrives a second time."""
    echo_s: float = 1.0
    """How much later a second copy arrives, at most."""
    corruption: float = 0.0
    """Probability that one bit of a message or a part is another on arrival."""
    bad_chunks: float = 0.0
    """Probability that a donor sends a damaged piece of a snapshot."""


CALM = Weather()


class Network:
    """Delays, losses, copies, bit errors and cuts on every directed link."""

    def __init__(self, chance: random.Random, weather: Weather = CALM) -> None:
        self.weather = weather
        self._chance = chance
        self._cuts: dict[tuple[str, str], int] = {}

    def is_cut(self, sender: str, to: str) -> bool:
        return self._cuts.get((sender, to), 0) > 0

    def cut(self, links: list[tuple[str, str]]) -> None:
        for link in links:
            self._cuts[link] = self._cuts.get(link, 0) + 1

    def mend(self, links: list[tuple[str, str]]) -> None:
        for link in links:
            self._cuts[link] -= 1

    def delays_s(self) -> list[float]:
        """One delay for each copy of a message that arrives; none when it is lost."""
        weather = self.weather
        if weather.loss and self._chance.random() < weather.loss:
            return []
        delays_s = [self._chance.uniform(*weather.delay_s)]
        if weather.duplication and self._chance.random() < weather.duplication:
            delays_s.append(delays_s[0] + weather.echo_s * self._chance.random())
        return delays_s

    def received(self, data: bytes) -> bytes:
        """The bytes as they arrive."""
        return self._damaged(data, self.weather.corruption)

    def chunk(self, data: bytes) -> bytes:
        """A piece of a snapshot, as it arrives."""
        return self._damaged(data, self.weather.bad_chunks)

    def _damaged(self, data: bytes, probability: float) -> bytes:
        if not probability or self._chance.random() >= probability:
            return data
        damaged = bytearray(data)
        damaged[self._chance.randrange(len(data))] ^= 1 << self._chance.randrange(8)
        return bytes(damaged)
