"""Answers as text, many at once.

What goes in: prompts as ids, each with its own decoder, adapter and way of sampling. What comes out: replies; the text
of each as it comes, in pieces of whole characters, up to the first of its stop texts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from luthier.data.templates import Renderer
from luthier.data.vocabulary import TextStream
from luthier.generate import MAX_SEQUENCES, Generator, Request, room_for
from luthier.models.decoder import Decoder
from luthier.sampling import Chosen, Sampling, StopTexts


@dataclass(frozen=True)
class Reply:
    """An answer: its text, its length in tokens, and whether it ended by itself (`stop`) or was cut (`length`)."""

    text: str
    tokens: int
    finish: str


@dataclass(frozen=True)
class Ask:
    """What is to be answered, and by whom. on_text: told each piece of the answer."""

    prompt: Sequence[int]
    sampling: Sampling
    decoder: Decoder
    adapter: str | None
    on_text: Callable[[str], None] | None = None

    @property
    def most_tokens(self) -> int:
        return len(self.prompt) + self.sampling.max_tokens


@dataclass(eq=False)
class Writing:
    """An answer that is being written. request: what the generator knows of it."""

    request: Request
    stream: TextStream
    stops: StopTexts
    on_text: Callable[[str], None] | None
    pieces: list[str] = field(default_factory=list)

    def hear(self, chosen: Chosen) -> bool:
        self._say(self.stops.push(self.stream.push(chosen.id)))
        return self.stops.ended

    def close(self) -> Reply:
        """What came of it, once it has ended."""
        assert self.request.finish is not None, "it is being written"
        self._say(self.stops.push(self.stream.flush()))
        finish = "stop" if self.stops.ended else self.request.finish
        self._say(self.stops.flush())
        return Reply("".join(self.pieces), len(self.request.chosen), finish)

    def _say(self, piece: str) -> None:
        if piece:
            self.pieces.append(piece)
            if self.on_text is not None:
                self.on_text(piece)


class Writer:
    """Writes for whoever asks, with one generator for each decoder. What they have read stays with them, so that a
    conversation that goes on is not read again.

    Args:
        cache_tokens: room of each for prompts and answers; None leaves it to the generator.
        sequences: answers that are written at once.
    """

    def __init__(self, renderer: Renderer, *, cache_tokens: int | None = None, sequences: int = MAX_SEQUENCES) -> None:
        self._renderer, self._cache_tokens, self._sequences = renderer, cache_tokens, sequences
        self._stop_ids = frozenset(renderer.stop_ids)
        self._generators: dict[Decoder, Generator] = {}

    def add(self, ask: Ask) -> Writing:
        """Begin an answer.

        Raises:
            ValueError: prompt and answer could never have room.
        """
        request = Request(ask.prompt, self._stop_ids, replace(ask.sampling, stop=()), ask.adapter)
        stops = StopTexts(ask.sampling.stop)
        made = Writing(request, self._renderer.stream_decoder(), stops, ask.on_text)
        request.on_token = made.hear
        self._generator(ask.decoder).add(request)
        return made

    def has_room(self, asks: Sequence[Ask]) -> bool:
        """Whether all of these could be written, at once or one after the other."""
        return all(ask.most_tokens <= self._generator(ask.decoder).cache_tokens for ask in asks)

    def write(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer all. One that is interrupted takes what was read with it: nobody knows where it stopped."""
        try:
            written = [self.add(ask) for ask in asks]
            while self.step():
                pass
        except BaseException:
            for generator in self._generators.values():
                generator.restart()
            raise
        return [each.close() for each in written]

    def forget(self) -> None:
        """Read everything anew: weights or adapters have changed."""
        for generator in self._generators.values():
            generator.forget()

    def _generator(self, decoder: Decoder) -> Generator:
        if decoder not in self._generators:
            self._generators[decoder] = Generator(
                decoder, max_sequences=self._sequences, cache_tokens=self._cache_tokens
            )
        return self._generators[decoder]

    def step(self) -> bool:
        """Every answer that is being written moves on; False where there is none."""
        moved = [generator.step() for generator in self._generators.values()]
        return any(moved)


def write(renderer: Renderer, asks: Sequence[Ask]) -> list[Reply]:
    """Answer all, each as it would be answered by itself (up to the rounding of products of other sizes)."""
    if not asks:
        return []
    return Writer(renderer, cache_tokens=room_for(ask.most_tokens for ask in asks)).write(asks)
