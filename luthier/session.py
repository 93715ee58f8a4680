"""A model ready to answer: base weights, the run's adapter or tuned weights, and the renderer it was trained with.

What goes in: a run (folder or name), a model folder, a hub id or `nano`. What comes out: a `Session` whose `answer`
renders messages exactly as training did, stops at the same tokens, and can speak with or without the adapter.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import os
import reprlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from luthier import planner
from luthier.arch import adapter_config, families, quantised
from luthier.arch.count import AnyTune
from luthier.arch.spec import Architecture
from luthier.arch.values import is_valued, valued
from luthier.config.load import environment
from luthier.config.schema import ModelSection, Qlora, Reward, RunConfig
from luthier.data.formats import FORMATS, Chat, Message, RowFault
from luthier.data.template_files import OWN_FILE
from luthier.data.templates import Renderer, load_renderer
from luthier.engine import backend
from luthier.engine.backend import Backend
from luthier.errors import DataError, ModelError, Problem, RunError
from luthier.models import adapters, hub, quantize, weights
from luthier.models.decoder import Decoder
from luthier.models.hub_files import Progress
from luthier.models.reward import Judge
from luthier.runs import manifest
from luthier.runs.store import RunFolder, index
from luthier.sampling import Sampling
from luthier.writing import Ask, Reply, Writer, write


@dataclasses.dataclass(frozen=True)
class Base:
    """A base model found on disk. path: as the user named it; commit: of the hub, where it came from there;
    notes: what should be known about how it was found; fingerprint: of its weights, where they were read for it."""

    path: str
    folder: Path
    revision: str | None
    commit: str | None
    arch: Architecture
    notes: tuple[Problem, ...] = ()
    fingerprint: Mapping[str, Any] | None = None


def find_base(model: ModelSection, on_download: Progress | None = None) -> Base:
    """Find (or download) the base and read its architecture; no weights are loaded, and none are fetched where fresh
    ones are asked for.

    Args:
        on_download: called with (bytes there, bytes in all) while files come from a hub.

    Raises:
        ModelError: it is not there, cannot be fetched, or is of a family that is not known.
    """
    wanted = model.init == "pretrained"
    found = hub.resolve(model.path, model.revision, environment(), on_download, weights=wanted)
    return Base(model.path, found.folder, model.revision, found.commit, families.read(found.folder), found.notes)


Conversation = str | Chat | Mapping[str, Any] | Sequence[Mapping[str, Any] | Message]
"""A question, or the beginning of a text where raw text was trained on; messages with role and content; or a row of the
`messages` format, with `tools`."""
ADAPTER = "default"
REMEMBERED = 2
"""Conversations of the model's full length that there is room for while they are remembered: what is talked to, and
what it is compared with."""
NO_SUCH_MODEL = ("hub.unknown", "hub.near", "hub.not_in_folder")
NEAR_RUN = 0.3
"""How like a name of a run has to be, by difflib's measure, to be proposed; as in `luthier runs show`."""


@dataclasses.dataclass(eq=False)
class Session:
    """Attributes:
    decoder: base (or fully tuned) weights, with the adapters attached where there are some.
    adapter: the name of the one that it was opened with; None where the weights themselves were tuned or nothing was.
    label: what to call it on screen; base_label: the same for the base.
    base: a decoder with the untouched base weights, for comparisons; the same object where an adapter can be left off.
    folder: where the decoder's own weights lie, by whose fingerprint other adapters are held to the same base.
    voices: what can be answered with, besides `base`: name -> adapter of the decoder; None is the decoder's own
        weights. More come with `load` and `mix`.
    continues_text: whether a bare question is put as it stands, because the rows were no conversations.
    """

    decoder: Decoder
    renderer: Renderer
    adapter: str | None
    label: str
    base: Decoder | None
    base_label: str
    folder: Path
    voices: dict[str, str | None] = dataclasses.field(init=False)
    _mixes: dict[str, Mapping[str, float]] = dataclasses.field(init=False, default_factory=dict)
    _known: Mapping[str, Any] | None = dataclasses.field(init=False, default=None)
    _writer: Writer | None = dataclasses.field(init=False, default=None)

    def __post_init__(self) -> None:
        self.voices = {self.label: self.adapter}
        if self.adapter is not None:
            self.voices.setdefault(self.base_label, None)

    # ------------------------------------------------------------------------------------------------- adapters

    def load(self, target: str | Path, name: str | None = None) -> str:
        """Attach the adapter of another run, or of a folder that PEFT or Luthier wrote, beside those that are there.

        Args:
            name: what to call it; the run's or folder's own name where none is given.

        Returns:
            the name, for `voice=` and `unload`.

        Raises:
            RunError: it has no adapter, was trained on another base, or with another template or other stop tokens;
                the name is taken. ModelError: its files are not right.
        """
        run, folder = adapter_at(target)
        name = name or adapter_name(target)
        if name in self.voices:
            raise RunError(Problem("chat.voice_taken", value=name))
        hold_to_base(run, self._fingerprint, self.base_label)
        hold_to_renderer(folder, self.renderer, self.label)
        adapters.load_adapter(self.decoder, self.decoder.arch, folder, _attached(name))
        self.voices[name] = _attached(name)
        return name

    def unload(self, name: str) -> None:
        """Take an adapter off again, and what was mixed from it.

        Raises:
            RunError: there is no such voice, or it is the decoder's own weights.
        """
        adapter = self._adapter_of(name)
        if adapter is None and name not in self._mixes:
            raise RunError(Problem("chat.voice_stays", value=name))
        for each in [name, *(mix for mix, parts in self._mixes.items() if name in parts)]:
            attached = self.voices.pop(each)
            self._mixes.pop(each, None)
            if attached is not None and attached not in self.voices.values():
                adapters.remove(self.decoder, attached)
        if self._writer is not None:  # another adapter of the same name must not go on from what this one has read
            self._writer.forget()

    def mix(self, strengths: Mapping[str, float]) -> str:
        """A voice that is the weighted sum of others: strength 0 is exactly the base, 1 exactly the adapter, and more
        than 1 overstates what was learned. Tensors are shared where one adapter is scaled.

        Raises:
            RunError: there is no such voice, or it is no adapter.
        """
        name = "+".join(f"{each}*{strength:g}" for each, strength in strengths.items())
        if name in self.voices:
            return name
        parts: dict[str, float] = {}
        for each, strength in strengths.items():
            adapter = self._adapter_of(each)
            if adapter is None:
                raise RunError(Problem("chat.voice_no_adapter", value=each))
            parts[adapter] = float(strength)
        self.voices[name] = adapters.blend(self.decoder, _attached(name), parts)
        self._mixes[name] = dict(strengths)
        return name

    def _adapter_of(self, voice: str) -> str | None:
        if voice not in self.voices:
            raise RunError(Problem("chat.no_voice", value=voice, values={"there": ", ".join(self.voices)}))
        return self.voices[voice]

    @functools.cached_property
    def _fingerprint(self) -> Mapping[str, Any]:
        return self._known or manifest.weights_fingerprint(self.folder)

    # ------------------------------------------------------------------------------------------------ answering

    @property
    def continues_text(self) -> bool:
        return self.renderer.trained != "chat"

    def answer(
        self,
        conversation: Conversation,
        sampling: Sampling | None = None,
        *,
        tuned: bool = True,
        voice: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> str:
        """One answer; see `answers`. `on_text` receives the text as it comes, in pieces of whole characters."""
        return self.reply(conversation, sampling, tuned=tuned, voice=voice, on_text=on_text).text

    def reply(
        self,
        conversation: Conversation,
        sampling: Sampling | None = None,
        *,
        tuned: bool = True,
        voice: str | None = None,
        on_text: Callable[[str], None] | None = None,
    ) -> Reply:
        """As `answer`, with how long the answer is and why it ended."""
        return self._replies([conversation], sampling, (tuned, voice), on_text)[0]

    def answers(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling | None = None,
        *,
        tuned: bool = True,
        voice: str | None = None,
    ) -> list[str]:
        """Answer each conversation (a question, or messages with role and content), all at once.

        Args:
            sampling: the n-th answer draws with its `seed` + n, so it is the answer that it would be by itself with
                that seed, whatever else is asked.
            tuned: False answers with the base.
            voice: one of `voices`; None is what the session was opened with.

        Raises:
            DataError: a conversation is not one, or is empty.
            RunError: the base is asked for, and this session was opened without it.
        """
        return [each.text for each in self.replies(conversations, sampling, tuned=tuned, voice=voice)]

    def replies(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling | None = None,
        *,
        tuned: bool = True,
        voice: str | None = None,
    ) -> list[Reply]:
        """As `answers`, each with how long it is and why it ended."""
        if isinstance(conversations, (str, Mapping)) or not isinstance(conversations, Sequence):
            raise DataError(Problem("chat.not_several", value=_shown(conversations)))
        return self._replies(conversations, sampling, (tuned, voice), None)

    def _replies(
        self,
        conversations: Sequence[Conversation],
        sampling: Sampling | None,
        who: tuple[bool, str | None],
        on_text: Callable[[str], None] | None,
    ) -> list[Reply]:
        prompts = [self.prompt(each) for each in conversations]
        decoder, adapter = self.speaker(*who)
        plain = sampling or Sampling()
        ways = [dataclasses.replace(plain, seed=plain.seed + index) for index in range(len(prompts))]
        asks = [Ask(prompt, way, decoder, adapter, on_text) for prompt, way in zip(prompts, ways, strict=True)]
        return self.write(asks)

    def write(self, asks: Sequence[Ask]) -> list[Reply]:
        """Answer what is put as ids."""
        if self._writer is not None and self._writer.has_room(asks):
            return self._writer.write(asks)
        return write(self.renderer, asks)

    @contextlib.contextmanager
    def remembering(self) -> Iterator[None]:
        """While this is open, what was read is kept: a conversation that goes on has only its new tokens read."""
        self._writer = Writer(self.renderer, sequences=REMEMBERED)
        try:
            yield
        finally:
            self._writer = None

    def speaker(self, tuned: bool = True, voice: str | None = None) -> tuple[Decoder, str | None]:
        """The decoder and the adapter on it that answer.

        Raises:
            RunError: the base is asked for, and this session was opened without it; or there is no such voice.
        """
        if tuned:
            return self.decoder, self.adapter if voice is None else self._adapter_of(voice)
        if self.base is None:
            raise RunError(Problem("chat.no_base", where=self.label))
        return self.base, None

    def fingerprint(self, tuned: bool = True, voice: str | None = None) -> str:
        """One hash of all that an answer of a voice comes from: the weights, the adapter as it is applied, and what
        renders the prompts."""
        decoder, adapter = self.speaker(tuned, voice)
        # A base beside weights that were tuned in full is the one that their manifest names.
        weights_of = self._fingerprint["sha256"] if decoder is self.decoder else self.base_label
        parts = [weights_of, adapters.fingerprint(decoder, adapter), self.renderer.fingerprint]
        return hashlib.sha256(repr(parts).encode()).hexdigest()

    def prompt(self, conversation: Conversation) -> list[int]:
        """The ids that an answer is to follow: as the rows looked that were trained on.

        Raises:
            DataError: it is no conversation, or empty.
        """
        if not (isinstance(conversation, str) and self.continues_text):
            chat = chat_of(conversation)
            if self.continues_text and not self.renderer.template_source:
                raise DataError(Problem("chat.only_text", where=self.label))
            return self.renderer.prompt(chat.messages, chat.tools)
        ids = self.renderer.prompt_text(conversation)
        if not ids:
            raise DataError(Problem("chat.nothing_to_continue"))
        return ids


def adapter_at(target: str | Path) -> tuple[Path, Path]:
    """The run that an adapter is of (or the folder above it), and the folder with its files.

    Raises:
        RunError: there is no adapter.
    """
    run = run_path(target)
    found = Path(target) if run is None else run
    folder = adapter_config.adapter_folder(found)
    # A folder that is no run has to be the adapter's own.
    if not os.path.isfile((folder if run is not None else found) / adapter_config.CONFIG_FILE):
        raise RunError(Problem("chat.no_adapter", where=str(target)))
    return (run if run is not None else folder.resolve().parent), folder


def adapter_name(target: str | Path) -> str:
    """What an adapter is called where nobody says: as its run or its folder."""
    return Path(run_path(target) or target).resolve().name


def hold_to_base(run: Path, fingerprint: Mapping[str, Any], base_label: str) -> None:
    """Hold the base that a run names in its manifest to the weights with this fingerprint. A folder without a manifest
    says nothing of its base; its tensors' shapes are all that can be held to.

    Raises:
        RunError: it is another base.
    """
    if not (run / "manifest.json").is_file():
        return
    then = manifest.load(RunFolder.open(run)).base
    if any(then.get(part) != fingerprint[part] for part in ("sha256", "config_sha256")):
        values = {"other": then.get("path"), "base": base_label}
        raise RunError(Problem("chat.other_base", where=str(run), values=values))


def hold_to_renderer(folder: Path, renderer: Renderer, label: str) -> None:
    """Hold what an adapter was trained with to what is rendered, where its folder tells.

    Raises:
        RunError: it was trained with another template, tokenizer or other stop tokens.
    """
    if not (folder / OWN_FILE).is_file():
        return
    theirs = Renderer.load(folder)
    if theirs.rendering != renderer.rendering:
        differ = [part for part, value in theirs.rendering.items() if value != renderer.rendering[part]]
        values = {"differ": ", ".join(differ), "label": label}
        raise RunError(Problem("chat.other_template", where=str(folder), values=values))


def _attached(voice: str) -> str:
    """The decoder's name for a voice; apart from the one that a session is opened with."""
    return f"voice:{voice}"


def chat_of(conversation: Conversation) -> Chat:
    """A bare question becomes one user message; dicts are read as rows of the `messages` format are, so that tool
    calls, reasoning and tools reach the template as they did in training.

    Raises:
        DataError: it is no conversation, or has a message that a data file could not hold either.
    """
    if isinstance(conversation, Chat):
        return conversation
    if isinstance(conversation, str):
        return Chat((Message("user", conversation),))
    if not isinstance(conversation, (Mapping, Sequence)):
        raise DataError(Problem("chat.not_a_conversation", value=_shown(conversation)))
    if not isinstance(conversation, Mapping) and all(isinstance(each, Message) for each in conversation):
        return Chat(tuple(each for each in conversation if isinstance(each, Message)))
    try:
        row = dict(conversation) if isinstance(conversation, Mapping) else list(conversation)
        made = FORMATS["messages"].parse(row)
    except RowFault as fault:
        raise DataError(fault.problem("")) from fault
    assert isinstance(made, Chat)
    return made


def _shown(value: object) -> str:
    """A value in a message, shortened."""
    return reprlib.repr(value)


def open_session(
    target: str | Path,
    *,
    device: str = "auto",
    compare: bool = False,
    template: str = "model",
    on_download: Progress | None = None,
) -> Session:
    """Load a run or a model for answering.

    Args:
        target: run folder or name, model folder, hub id, or `nano`.
        compare: also keep the base at hand (costs a second copy of the weights where they were tuned in full).
        template: for models that bring no chat template: chatml, alpaca or a Jinja file. Runs bring their own.
        on_download: called with (bytes there, bytes in all) while a model comes from a hub.

    Raises:
        ModelError: the target is neither, cannot be loaded, or is a reward model; RunError: the run has no weights yet,
            or was trained with another template.
    """
    return open_any(target, writes, device=device, compare=compare, template=template, on_download=on_download)


def writes(arch: Architecture, target: str | Path) -> None:
    """Raises ModelError where a model gives answers a number and writes none."""
    if is_valued(arch):
        raise ModelError(Problem("models.only_scores", where=str(target), values={"judge": str(target)}))


def judges(arch: Architecture, target: str | Path) -> None:
    """Raises ModelError where a model gives no numbers."""
    if not is_valued(arch):
        raise ModelError(Problem("models.no_score", where=str(target)))


def open_any(
    target: str | Path,
    hold: Callable[[Architecture, str | Path], None] | None = None,
    *,
    device: str = "auto",
    compare: bool = False,
    template: str = "model",
    on_download: Progress | None = None,
    spare: bool = True,
    beside: Backend | None = None,
) -> Session:
    """As `open_session`, whatever the model is for.

    Args:
        hold: looks at the architecture before any weights are loaded.
        spare: whether memory that is free may be filled to answer sooner.
        beside: of the run that this process trains, which stays as it is: `device` says nothing then.
    """
    path = run_path(target)
    if path is not None:
        with RunFolder.open(path).at_home() as run:
            own_template(run, template)
            return _open_run(run, device, compare, hold, spare, beside)
    base, renderer = find_model(target, template, on_download)
    if hold is not None:
        hold(base.arch, target)
    chosen = beside or backend.choose(device, "auto")
    chosen.apply()
    decoder = weights.load(base.folder, base.arch, dtype=chosen.compute_dtype, device=chosen.device)
    return Session(decoder, renderer, None, str(target), decoder, str(target), base.folder)


def own_template(run: RunFolder, template: str) -> None:
    """Raises RunError where another template than the run's own is asked for."""
    if template != "model":
        raise RunError(Problem("chat.template_of_run", where=str(run.path), value=template))


def find_model(target: str | Path, template: str, on_download: Progress | None = None) -> tuple[Base, Renderer]:
    """A model that is no run, and what renders its prompts; arguments and errors as of `open_session`."""
    config = RunConfig.model_validate({"model": str(target), "data": {"train": "-", "template": template}})
    try:
        base = find_base(config.model, on_download)
    except ModelError as error:
        raise _with_runs(error, str(target)) from error
    # A folder that a run wrote says how it was trained; a template that is asked for is there for conversations.
    renderer = Renderer.load(base.folder) if template == "model" else load_renderer(base.folder, config)
    if not renderer.template_source and renderer.trained == "chat":
        raise ModelError(Problem("chat.no_template", where=str(base.folder), values={"model": str(target)}))
    return base, renderer


def run_path(target: str | Path) -> Path | None:
    """The folder of the run that is meant: a run folder, or a name below `runs/`; None where neither is one."""
    places = (Path(target), Path("runs") / target)
    return next((path for path in places if os.path.isfile(path / "recipe.yaml")), None)  # False where it is unreadable


def _with_runs(error: ModelError, target: str) -> ModelError:
    """The same, or where the target looks like the name of a run, those names."""
    if any(problem.id not in NO_SUCH_MODEL for problem in error.problems):
        return error
    folder = Path(target).parent if Path(target).name != target else Path("runs")
    near = difflib.get_close_matches(Path(target).name, [info.name for info in index(folder)], cutoff=NEAR_RUN)
    if not near:
        return error
    return ModelError(Problem("chat.unknown", value=target, values={"near": ", ".join(str(folder / n) for n in near)}))


def output_folder(run: RunFolder) -> Path:
    """`adapter` or `model` of the run.

    Raises:
        RunError: the run has no result yet.
    """
    for name in ("adapter", "model"):
        if (run.path / name).is_dir():
            return run.path / name
    raise RunError(Problem("runs.no_result", where=str(run.path), values={"name": run.name, "state": run.state}))


def _open_run(
    run: RunFolder,
    device: str,
    compare: bool,
    hold: Callable[[Architecture, str | Path], None] | None,
    spare: bool,
    beside: Backend | None,
) -> Session:
    output, asked = output_folder(run), run.config().model
    whole = output.name == "model"
    # A model tuned in full stands by itself: its base may be gone, unless it is to be compared with.
    base = None if whole and not compare else run_base(run)
    if hold is not None:
        hold(families.read(output) if base is None else base.arch, run.path)
    if beside is not None:
        chosen = beside.beside(run.read_json("plan.json")["backend"])
    elif device == "auto":
        chosen = backend.restore(run.read_json("plan.json")["backend"])[0]
    else:
        chosen = backend.choose(device, "auto")
    chosen.apply()
    dtype, place = chosen.compute_dtype, chosen.device
    renderer = Renderer.load(output)
    original = None if base is None else _as_trained(base, run.config().tune, dtype, place, spare)
    if whole:
        decoder = weights.load(output, families.read(output), dtype=dtype, device=place)
        return Session(decoder, renderer, None, run.name, original, asked.path, output)
    assert base is not None and original is not None
    adapters.load_adapter(original, base.arch, output, ADAPTER)
    session = Session(original, renderer, ADAPTER, run.name, original, asked.path, base.folder)
    session._known = base.fingerprint
    return session


def open_judge(target: str | Path, *, device: str = "auto", spare: bool = True, beside: Backend | None = None) -> Judge:
    """Load a run of `method=reward`, or a model folder with a scalar head, for giving rewards. `spare` and `beside` as
    of `open_any`.

    Raises:
        ModelError: the target is neither, or cannot be loaded; RunError: the run has no weights yet.
    """
    session = open_any(target, judges, device=device, spare=spare, beside=beside)
    return Judge(session.decoder, session.renderer, session.adapter, session.fingerprint)


def _as_trained(base: Base, tune: AnyTune, dtype: torch.dtype, device: str, spare: bool) -> Decoder:
    """The base as a run read it. A quantised one is kept dense beside that as far as memory may be filled, because
    every token of an answer reads all of it."""
    if not isinstance(tune, Qlora):
        return weights.load(base.folder, base.arch, dtype=dtype, device=device)
    quantize.require()
    kept = quantised.quantised(base.arch, tune)
    layer_bytes = [parameters * dtype.itemsize for parameters in kept.layer_parameters]
    left_bytes = (base.arch.num_parameters - kept.parameters) * dtype.itemsize + kept.total
    spare_bytes = int(backend.free_memory_bytes(device) * planner.USABLE) - left_bytes
    layers = planner.dense_layers(layer_bytes, spare_bytes) if spare else 0
    return weights.load(base.folder, base.arch, dtype=dtype, device=device, quantise=tune, dense_layers=layers)


def run_base(run: RunFolder) -> Base:
    """The base that the run was trained on.

    Raises:
        ModelError: it is gone, or its weights or its config.json are not those any more.
    """
    given = manifest.load(run)
    base = find_base(pinned(run.config().model, given.base))
    now = manifest.weights_fingerprint(base.folder)
    parts = {"sha256": "*.safetensors", "config_sha256": "config.json"}
    changed = [name for part, name in parts.items() if given.base.get(part) != now[part]]
    if changed:
        values = {"files": ", ".join(changed)}
        raise ModelError(Problem("models.base_changed", where=str(base.folder), value=base.path, values=values))
    return with_heads(dataclasses.replace(base, fingerprint=now), run.config())


def with_heads(base: Base, config: RunConfig) -> Base:
    """The base with the scalar head that the recipe's method needs, where it has none."""
    if isinstance(config.method, Reward) and not is_valued(base.arch):
        return dataclasses.replace(base, arch=valued(base.arch))
    return base


def pinned(model: ModelSection, then: Mapping[str, Any]) -> ModelSection:
    """The model at the commit of a hub that a run was trained on, as long as the same is asked for.

    Args:
        then: `base` of the run's manifest.
    """
    same = (then.get("path"), then.get("revision")) == (model.path, model.revision)
    return model.model_copy(update={"revision": then["commit"]}) if same and then.get("commit") else model
