"""Weights in ggml's formats against llama.cpp's own quantiser, values worked out by hand, and the rules for types.

Needs xllamacpp for the comparisons. Errors are compared through `gguf`'s dequantiser.
"""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from luthier.errors import ModelError
from luthier.export.gguf import native, quants, recipe, write
from luthier.export.weights import open_source
from luthier.nano import corpus

K_QUANTS = ("Q4_K", "Q5_K", "Q6_K")


def drawn(kind: str, rows: int, columns: int) -> Tensor:
    torch.manual_seed(rows + columns)
    x = torch.randn(rows, columns)
    return {
        "normal": lambda: x,
        "a model's": lambda: 0.02 * x,
        "heavy tails": lambda: torch.distributions.StudentT(3.0).sample((rows, columns)),
        "outliers": lambda: x * (1 + 30 * (torch.rand(rows, columns) < 0.005)),
        "all positive": lambda: torch.rand(rows, columns) + 3,
        "all negative": lambda: -torch.rand(rows, columns) - 3,
        "half zeros": lambda: x * (torch.rand(rows, columns) < 0.5),
        "small": lambda: 1e-3 * x,
        "tiny": lambda: 1e-9 * x,
        "huge": lambda: 1e5 * x,
        "rows of other sizes": lambda: x * torch.logspace(-3, 3, rows)[:, None],
    }[kind]()


DRAWN = (
    *("normal", "a model's", "heavy tails", "outliers", "all positive", "all negative", "half zeros", "small", "tiny"),
    *("huge", "rows of other sizes"),
)


def back(made: NDArray[np.uint8], kind: str) -> Tensor:
    return torch.from_numpy(gguf.quants.dequantize(made, gguf.GGMLQuantizationType[kind]))


def rmse(made: NDArray[np.uint8], kind: str, x: Tensor) -> float:
    return float((back(made, kind) - x).double().square().mean().sqrt())


@pytest.fixture(scope="module")
def theirs() -> native.Native:
    found = native.find(1)
    if found is None:
        pytest.skip("needs xllamacpp")
    return found


@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("distribution", DRAWN)
def test_errors_are_llama_cpps(distribution: str, kind: str, theirs: native.Native) -> None:
    for rows, columns in ((131, 768), (7, 4096)):
        x = drawn(distribution, rows, columns)
        ours, its = quants.quantise(x, kind), quants.quantise(x, kind, native=theirs)
        assert ours.shape == its.shape
        assert rmse(ours, kind, x) == pytest.approx(rmse(its, kind, x), rel=0.01), distribution


def test_nano_in_torch_s_k_quants_is_as_near_to_itself_as_in_llama_cpp_s(tmp_path: Path, theirs: native.Native) -> None:
    """Weights that were trained, whole files: KL within 5 %, errors of every tensor within 1 %."""
    source = open_source([("nano", 1.0)])
    model = AutoModelForCausalLM.from_pretrained(source.folder, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(source.folder)
    prompts = [tokenizer(text).input_ids for text in corpus.documents("stage4", seed=7, count=8)]

    def logps() -> Tensor:
        with torch.no_grad():
            return torch.cat([model(torch.tensor([each])).logits[0].log_softmax(-1) for each in prompts])

    exact, state = logps(), {name: values.clone() for name, values in model.state_dict().items()}
    for wanted in ("q4_k_m", "q5_k_m", "q6_k"):
        kl: list[float] = []
        errors: list[dict[str, float]] = []
        planned = write.plan(source, [wanted])
        assert set(planned.types[wanted].values()) & set(K_QUANTS)
        for number, library in enumerate((None, theirs)):
            path = tmp_path / f"{wanted}-{number}.gguf"
            write.write(source, planned._replace(quantiser=library), {wanted: path}, name="nano")
            read = {each.name: gguf.dequantize(each.data, each.tensor_type) for each in gguf.GGUFReader(path).tensors}
            errors.append({})
            for name, there in planned.names.items():
                mixer = source.arch.spec.layers[0].mixer
                values = torch.from_numpy(read[there].copy()).view(state[name].shape)
                change = values - write.as_ggml(state[name], name, source.arch.spec, planned.kind)
                errors[-1][name] = float(change.double().square().mean().sqrt())
                model.state_dict()[name].copy_(as_checkpoint(values, name, mixer.heads, mixer.kv_heads))
            kl.append(float((exact.exp() * (exact - logps())).sum(-1).double().mean()))
        assert len(exact) > 1000 and kl[0] > 1e-5
        print(f"{wanted}: KL {kl[0]:.3e} in tensor operations, {kl[1]:.3e} natively, {len(exact)} places", flush=True)
        assert kl[0] == pytest.approx(kl[1], rel=0.05), wanted
        for name, error in errors[1].items():
            assert errors[0][name] == pytest.approx(error, rel=0.01), (wanted, name)


def as_checkpoint(values: Tensor, name: str, heads: int, kv_heads: int) -> Tensor:
    """Rows of q and k in halves again."""
    count = heads if ".q_proj." in name else kv_heads if ".k_proj." in name else 0
    if not count:
        return values
    return values.reshape(count, -1, 2, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)


@pytest.mark.parametrize("kind", K_QUANTS)
@pytest.mark.parametrize("value", [0.0, 0.7, -0.7, 1e-8])
def test_constants_are_llama_cpps_to_the_byte(value: float, kind: str, theirs: native.Native) -> None:
    x = torch.full((3, 512), value)
    ours, its = quants.quantise(x, kind), quants.quantise(x, kind, native=theirs)
    assert torch.equal(back(ours, kind), back(its, kind))
    if value == 0:
        assert np.array_equal(ours, its)
        assert not ours.any()


def test_most_blocks_are_llama_cpps_to_the_byte(theirs: native.Native) -> None:
    """The rest differ by the order of float32 sums."""
    x = drawn("a model's", 64, 2048)
    for kind, least in (("Q4_K", 0.93), ("Q5_K", 0.75), ("Q6_K", 0.99)):
        size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]][1]
        pairs = [made.reshape(-1, size) for made in (quants.quantise(x, kind), theirs.quantise(x.numpy(), kind))]
        assert (pairs[0] == pairs[1]).all(1).mean() > least, kind


def test_a_block_of_q4_k_by_hand() -> None:
    """Codes 0..15 twice, minus 8, in each of eight blocks: step 1 and offset 8 leave no error, so nothing beats them.

    The largest step (1) and offset (8) get the code 63, their units are 1/63 and 8/63 in half precision.
    """
    x = (torch.arange(32) % 16 - 8).float().repeat(8)[None]
    made = quants.quantise(x, "Q4_K")[0]
    units = np.array([1 / 63, 8 / 63], dtype=np.float16)
    assert made[:4].tobytes() == units.tobytes()
    assert made[4:16].tolist() == [255] * 12  # sixteen codes of six bits, all ones
    codes = np.arange(32) % 16
    assert made[16:48].tolist() == (codes | codes << 4).tolist()


def test_a_block_of_q6_k_by_hand() -> None:
    """The values -32..-17 and so on in steps of 1: scale 1, code = value + 32; unit 1/-128 of the largest scale."""
    values = torch.arange(256) % 16 * 4 - 32
    x = values.float()[None]
    made = quants.quantise(x, "Q6_K")[0]
    assert torch.equal(back(made[None], "Q6_K"), x)
    assert made[208:].tobytes() == np.array([-1 / 128], dtype=np.float16).tobytes()
    assert made[192:208].view(np.int8).tolist() == [-128] * 16
    codes = (values + 32).numpy()
    assert made[:32].tolist() == ((codes[:32] & 15) | (codes[64:96] & 15) << 4).tolist()


@pytest.mark.parametrize("kind", [*quants.SIMPLE, "F16", "BF16", "F32"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_simple_formats_are_the_packages_bytes(kind: str, dtype: torch.dtype) -> None:
    x = drawn("heavy tails", 37, 320).to(dtype)
    wanted = gguf.quants.quantize(x.float().numpy(), gguf.GGMLQuantizationType[kind])
    assert quants.quantise(x, kind).tobytes() == wanted.tobytes()


@pytest.mark.parametrize("kind", native.KINDS)
def test_threads_and_slabs_change_nothing(kind: str, theirs: native.Native, monkeypatch: pytest.MonkeyPatch) -> None:
    x = drawn("normal", 301, 256)
    many = native.find(3)
    assert many is not None
    whole = quants.quantise(x, kind, native=theirs)
    own = None if kind in native.ONLY_NATIVE else quants.quantise(x, kind)
    monkeypatch.setattr(quants, "SLAB_VALUES", 64 * 256)
    monkeypatch.setattr(native, "_CHUNK_VALUES", 5 * 256)
    assert np.array_equal(quants.quantise(x, kind, native=many), whole)
    assert own is None or rmse(quants.quantise(x, kind), kind, x) == pytest.approx(rmse(own, kind, x), rel=1e-4)


@pytest.mark.parametrize("kind", [*quants.PLAIN, *quants.SIMPLE, *K_QUANTS])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused_by_name(kind: str, bad: float) -> None:
    x = drawn("normal", 4, 256)
    x[2, 17] = bad
    with pytest.raises(ModelError, match=r"blk\.3\.attn_q\.weight.*NaN"):
        quants.quantise(x, kind, name="blk.3.attn_q.weight")


def test_values_too_large_for_half_precision_are_refused(theirs: native.Native) -> None:
    x = drawn("normal", 4, 256)
    x[1, 5] = 1e9
    for kind in ("F16", *quants.SIMPLE, *K_QUANTS):
        with pytest.raises(ModelError, match=r"output\.weight.*too large"):
            quants.quantise(x, kind, name="output.weight")
    for kind in native.KINDS:
        with pytest.raises(ModelError, match="too large"):
            quants.quantise(x, kind, native=theirs)
    assert quants.quantise(x, "BF16").shape == (4, 512)


@pytest.mark.parametrize("kind", [*quants.PLAIN, *quants.SIMPLE, *K_QUANTS])
def test_no_rows_are_no_bytes(kind: str) -> None:
    assert quants.quantise(torch.zeros(0, 256), kind).shape == (0, recipe.row_bytes(256, kind))


# ------------------------------------------------------------------------------------------- types


def types(quant: str, *, layers: int = 8, width: int = 256, tied: bool = False, **model: int) -> dict[str, str]:
    tensors: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (64, width)), ("output_norm.weight", (width,))]
    if not tied:
        tensors.append(("output.weight", (64, width)))
    for layer in range(layers):
        tensors += [(f"blk.{layer}.{part}.weight", (width, width)) for part in ("attn_v", "attn_output", "ffn_down")]
    return recipe.tensor_types("llama", quant, tensors, **model)


def test_q4_k_m_gives_more_bits_to_the_ends_and_every_third() -> None:
    found = types("q4_k_m")
    assert [found[f"blk.{layer}.attn_v.weight"][1] for layer in range(8)] == more()
    assert found["output.weight"] == "Q6_K"
    assert found["token_embd.weight"] == "Q4_K"
    assert found["output_norm.weight"] == "F32"


def more() -> list[str]:
    """Of 8 layers: 0 (first eighth), 7 (last), and 3 and 6, where (layer - 1) % 3 == 2."""
    return ["6" if layer in (0, 3, 6, 7) else "4" for layer in range(8)]


def test_a_tied_embedding_is_the_output() -> None:
    assert types("q4_k_m", tied=True)["token_embd.weight"] == "Q6_K"
    assert types("q8_0", tied=True)["token_embd.weight"] == "Q8_0"


def test_rows_that_are_not_whole_blocks_fall_back() -> None:
    found = types("q4_k_m", width=320)
    assert found["blk.0.attn_output.weight"] == "Q5_0"
    assert found["blk.0.attn_v.weight"] == "Q8_0"
    assert types("q4_k_m", width=48)["blk.0.attn_output.weight"] == "F16"


def test_eight_experts_keep_their_attention() -> None:
    assert types("q4_k_m", experts=8)["blk.1.attn_v.weight"] == "Q8_0"
    assert types("q4_k_m", experts=8)["blk.1.attn_output.weight"] == "Q5_K"
    assert types("q4_k_m", experts=16)["blk.1.attn_v.weight"] == "Q4_K"


def test_seventy_billion_get_more_bits_for_values() -> None:
    assert types("q4_k_m", layers=80, heads=8, kv_heads=1)["blk.10.attn_v.weight"] == "Q5_K"
    assert types("q4_k_m", layers=80, heads=8, kv_heads=8)["blk.10.attn_v.weight"] == "Q4_K"
