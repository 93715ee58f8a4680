"""Weights in and out of the decoder.

What goes in: a checkpoint folder, or a seed. What comes out: a `Decoder` whose frozen weights have the compute dtype
and whose trained ones are float32 (matrices in another dtype where that is asked for), filled tensor by tensor so that
no second copy of the model ever exists; and folders that transformers, vLLM and llama.cpp read unchanged. Every weight
must be there, fit, and be expected.

Shape legend: V vocabulary, D hidden.
"""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from luthier.arch.families import read_config
from luthier.arch.spec import EMBEDDING, HEAD, Architecture
from luthier.arch.tokens import token_modules
from luthier.arch.values import SCORE, as_classifier, is_valued
from luthier.config.schema import Qlora
from luthier.disk import write_json
from luthier.errors import ModelError, Problem
from luthier.models import quantize, shards
from luthier.models.decoder import Decoder
from luthier.models.shards import Stored, listed

Trainable = Callable[[str], bool]
Sample = Callable[[np.random.Generator, int], NDArray[np.float32]]
"""(stream, count) -> so many random numbers."""
ROTARY_BUFFER = re.compile(r"\.rotary_emb\.inv_freq$")
"""Old checkpoints hold this table; it follows from config.json."""
FLOATS = frozenset(shards.DTYPE_NAMES.values())
DRAW_ELEMENTS = 2**22
"""Random numbers drawn at once: 16 MB, so that a large embedding needs no second copy in float32. The result does not
depend on it, because the generator's stream goes on where it stopped."""


def nothing(_: str) -> bool:
    """The `trainable` of a model that is only used."""
    return False


def load(
    folder: Path,
    arch: Architecture,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    trainable: Trainable = nothing,
    trained_dtype: torch.dtype = torch.float32,
    quantise: Qlora | None = None,
    dense_layers: int = 0,
) -> Decoder:
    """A decoder with the weights of a checkpoint folder.

    Args:
        folder: holds `model.safetensors`, or shards with their index.
        dtype: of frozen weights.
        trainable: whether a tensor, by its checkpoint name, is going to be trained.
        trained_dtype: of trained matrices; trained vectors, and every gradient, are float32.
        quantise: how the weights of units are kept, each as soon as it is read; None keeps them as they are.
        dense_layers: of how many layers, from the top down, quantised weights are also kept as they are computed with.

    Rows for new tokens that the files do not have yet are left without values; see `start_tokens`.

    Raises:
        ModelError: weights are missing, unexpected, of the wrong shape, damaged, not plain floats or, in float16, too
            large; everything found is listed.
    """
    stored = shards.index(folder)
    problems = misfits(arch, stored, folder)
    if problems:
        raise ModelError(problems)
    if quantise is None:
        decoder = blank(arch, dtype=dtype, device=device, trainable=trainable, trained_dtype=trained_dtype)
    else:
        decoder = Decoder(arch, dtype, device, unit_device="meta")
    first_dense = len(arch.spec.layers) - dense_layers
    dense = {f"{unit.name}.weight" for unit in arch.units if unit.layer >= first_dense}
    too_large: list[str] = []
    if is_valued(arch) and f"{SCORE}.weight" not in stored:
        decoder.get_parameter(f"{SCORE}.weight").detach().zero_()
    for file, names in _by_file(stored, [name for name in arch.tensors if name in stored]):
        with _opened(file) as tensors, torch.no_grad():
            for name in names:
                parameter, values = decoder.get_parameter(name), tensors.get_tensor(name)
                if quantise is not None and (unit := decoder.units.get(name.removesuffix(".weight"))) is not None:
                    unit.frozen = quantize.quantised(values.to(device), quantise)
                    if unit.frozen.overflows(dtype):
                        too_large.append(name)
                    if name in dense:
                        unit.frozen.keep(dtype)
                    continue
                parameter[: len(values)].copy_(values)
                narrowed = parameter.dtype == torch.float16 and stored[name].dtype != "F16"
                if narrowed and not bool(parameter.isfinite().all()):
                    too_large.append(name)
    if too_large:
        raise ModelError(Problem("models.overflow", str(folder), values={"names": listed(too_large)}))
    return decoder


def random(
    arch: Architecture,
    seed: int,
    *,
    dtype: torch.dtype,
    device: str | torch.device = "cpu",
    trainable: Trainable = nothing,
    trained_dtype: torch.dtype = torch.float32,
) -> Decoder:
    """A decoder with fresh weights, see `init_random`."""
    decoder = blank(arch, dtype=dtype, device=device, trainable=trainable, trained_dtype=trained_dtype)
    init_random(decoder, arch, seed)
    return decoder


def blank(
    arch: Architecture,
    *,
    dtype: torch.dtype,
    device: str | torch.device,
    trainable: Trainable = nothing,
    trained_dtype: torch.dtype = torch.float32,
) -> Decoder:
    """A decoder whose weights have their dtype and place but no values yet."""
    decoder = Decoder(arch, dtype, device)
    for name in filter(trainable, arch.tensors):
        owner, _, leaf = name.rpartition(".")
        shape = arch.tensors[name]
        kept = trained_dtype if len(shape) > 1 and owner != SCORE else torch.float32
        parameter = nn.Parameter(torch.empty(shape, dtype=kept, device=device))
        if kept != torch.float32:
            parameter.grad_dtype = torch.float32  # so that micro-batches add up as well as for a float32 master
        setattr(decoder.get_submodule(owner), leaf, parameter)
    return decoder


def init_random(decoder: Decoder, arch: Architecture, seed: int) -> None:
    """Fill with fresh weights: matrices from normal(0, initializer_range), norms one, biases zero, as transformers does
    for these families.

    Each tensor has its own counter-based stream, keyed by (seed, name), so that the values do not depend on the order
    of creation, on the other tensors, or on the device.
    """

    def normal(stream: np.random.Generator, count: int) -> NDArray[np.float32]:
        return stream.standard_normal(count, dtype=np.float32) * np.float32(arch.spec.initializer_range)

    with torch.no_grad():
        for name, shape in arch.tensors.items():
            if name == f"{SCORE}.weight":
                decoder.get_parameter(name).zero_()
            elif len(shape) == 1:
                decoder.get_parameter(name).fill_(0.0 if name.endswith(".bias") else 1.0)
            else:
                draw(decoder.get_parameter(name), seed, name, normal)


def start_tokens(decoder: Decoder, arch: Architecture) -> None:
    """Give new tokens their first rows, in the matrices themselves; see `mean_row`."""
    with torch.no_grad():
        for module in token_modules(arch) if arch.new_ids else ():
            weight_VD = decoder.get_parameter(module + ".weight")
            weight_VD[list(arch.new_ids)] = mean_row(weight_VD, arch).to(weight_VD.dtype)


def mean_row(weight_VD: Tensor, arch: Architecture) -> Tensor:
    """What the row of a new token starts as, float32 [D]: the mean of the rows of the tokens there are. A new token
    then bounds how far the model's predictions move (at most log(1 + 1/V) in KL for one token), where a row near zero
    or a random one can take all probability to itself (Hewitt 2021, "Initializing New Word Embeddings for Pretrained
    Language Models"). Rows beyond the tokenizer's own size were never trained and do not count."""
    return weight_VD[: arch.new_ids[0]].detach().mean(0, dtype=torch.float32)


def draw(target: Tensor, seed: int, name: str, sample: Sample) -> None:
    """Fill a tensor from the counter-based stream (Philox, Salmon et al. 2011) keyed by seed and name."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    stream = np.random.Generator(np.random.Philox(key=int.from_bytes(digest[:16], "little")))
    flat = target.view(-1)
    for start in range(0, flat.numel(), DRAW_ELEMENTS):
        piece = flat[start : start + DRAW_ELEMENTS]
        piece.copy_(torch.from_numpy(sample(stream, piece.numel())))


def embedding_rows(folder: Path, arch: Architecture, ids: Sequence[int]) -> NDArray[np.float32]:
    """Rows of the matrix that scores tokens (the head, or the embedding where they are one), float32 [len(ids), D],
    read from the file without loading the model. A token beyond the matrix, as some tokenizers have, has zeros.

    Raises:
        ModelError: no usable weights.
    """
    stored, name = shards.index(folder), (EMBEDDING if arch.spec.tied else HEAD) + ".weight"
    problems = misfits(arch, stored, folder)
    if problems:
        raise ModelError(problems)
    picked = np.zeros((len(ids), arch.spec.d), dtype=np.float32)
    with _opened(stored[name].file) as tensors:
        rows = tensors.get_slice(name)
        for place, index in enumerate(ids):
            if 0 <= index < arch.spec.vocab:
                picked[place] = rows[index].float().numpy()
    return picked


def save_model(
    decoder: Decoder,
    base_folder: Path,
    out_folder: Path,
    dtype: torch.dtype,
    max_shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
) -> None:
    """Write the decoder's own weights as an ordinary checkpoint folder, complete or not at all.

    Args:
        base_folder: where config.json (and generation_config.json) come from.
        out_folder: must be missing or empty.

    Raises:
        ModelError: `out_folder` holds something, or is the base's.
        RunError: no space, or the operating system refuses.
    """
    arch = decoder.arch
    if out_folder.resolve() == base_folder.resolve():
        raise ModelError(Problem("models.same_folder", str(out_folder)))
    needed = sum(math.prod(shape) for shape in arch.tensors.values()) * dtype.itemsize
    tensors = ((name, decoder.get_parameter(name)) for name in arch.tensors)
    with shards.fresh_folder(out_folder, needed) as folder:
        write_files(folder, tensors, arch, base_folder, dtype, max_shard_bytes)


def write_files(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    arch: Architecture,
    base_folder: Path,
    dtypes: shards.Dtypes,
    max_shard_bytes: int = shards.DEFAULT_SHARD_BYTES,
) -> None:
    """The files of a checkpoint: weights, config.json and generation_config.json.

    Args:
        tensors: (name, values) one by one, in the order of `arch.tensors`.
        base_folder: as for `save_model`.
    """
    config = read_config(base_folder)
    if isinstance(dtypes, torch.dtype):
        written = [key for key in ("dtype", "torch_dtype") if key in config] or ["torch_dtype"]
        config.update(dict.fromkeys(written, str(dtypes).removeprefix("torch.")))
    if arch.new_ids:
        config["vocab_size"] = arch.spec.vocab
    if is_valued(arch):
        config = as_classifier(config)
        dtypes = {name: shards.dtype_of(dtypes, name) for name in arch.tensors} | {f"{SCORE}.weight": torch.float32}
    shards.write_checkpoint(folder, arch.tensors, dtypes, tensors, max_shard_bytes)
    write_json(folder / "config.json", config)
    generation = base_folder / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, folder / generation.name)


def misfits(arch: Architecture, stored: Mapping[str, Stored], folder: Path) -> list[Problem]:
    """Everything in which the files of a checkpoint folder differ from what config.json describes."""
    head = HEAD + ".weight"
    allowed = {name for name in stored if ROTARY_BUFFER.search(name)} | ({head} if arch.spec.tied else set())
    problems = []
    for message, names in (
        ("models.missing_tensors", [n for n in arch.tensors if n not in stored and n != f"{SCORE}.weight"]),
        ("models.unexpected_tensors", sorted(stored.keys() - arch.tensors.keys() - allowed)),
        (
            "models.wrong_shapes",
            [
                f"{name} {list(stored[name].shape)} (config.json: {list(shape)})"
                for name, shape in arch.tensors.items()
                if name in stored and not _fits(arch, name, stored[name].shape)
            ],
        ),
        (
            "models.weight_dtype",
            [f"{n} {stored[n].dtype}" for n in arch.tensors if n in stored and stored[n].dtype not in FLOATS],
        ),
    ):
        if names:
            problems.append(Problem(message, str(folder), values={"count": len(names), "names": listed(names)}))
    asked = arch.spec.tied and not is_valued(arch)  # beside a scalar head nobody asks the other one
    if asked and not problems and head in stored and not _same(stored[head], stored[EMBEDDING + ".weight"]):
        problems.append(Problem("models.head_differs", str(stored[head].file)))
    return problems


def _fits(arch: Architecture, name: str, shape: tuple[int, ...]) -> bool:
    """Rows for new tokens may be missing at the end."""
    expected = arch.tensors[name]
    if not arch.new_ids or name.removesuffix(".weight") not in token_modules(arch):
        return shape == expected
    missing = sum(identity >= shape[0] for identity in arch.new_ids)
    return shape[1:] == expected[1:] and (shape[0] == expected[0] or shape[0] + missing == expected[0])


def _same(one: Stored, other: Stored) -> bool:
    """Whether two stored tensors hold the same bytes; compared in pieces of the file."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    first, second = (
        np.memmap(each.file, dtype=np.uint8, mode="r", offset=each.begin, shape=(each.end - each.begin,))
        for each in (one, other)
    )
    step = 4 * DRAW_ELEMENTS
    return all(np.array_equal(first[at : at + step], second[at : at + step]) for at in range(0, len(first), step))


def _by_file(stored: Mapping[str, Stored], names: Iterable[str]) -> Iterator[tuple[Path, list[str]]]:
    files: dict[Path, list[str]] = {}
    for name in names:
        files.setdefault(stored[name].file, []).append(name)
    yield from files.items()


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """A safetensors file, mapped into memory."""
    try:
        with safe_open(file, framework="pt", device="cpu") as tensors:
            yield tensors
    except (SafetensorError, OSError) as error:
        raise ModelError(Problem("models.damaged", str(file), values={"reason": str(error)})) from error
