"""Fewer bits: what is promised of bfloat16 by chance and of 8 bits by blocks, by hand and by counting."""

from __future__ import annotations

import pytest
import torch

from luthier.kernels import reference, rounding

CPU = torch.device("cpu")


def test_random_bits_are_a_hash_of_key_and_place():
    drawn = rounding.noise(6, 5, 0xDEADBEEF, CPU)
    for place, bits in zip(range(6, 11), drawn.tolist(), strict=True):
        word = reference.mix(reference.mix(place // 2) ^ 0xDEADBEEF)
        assert bits & 0xFFFF == word >> 16 * (place % 2) & 0xFFFF


def test_random_bits_do_not_depend_on_how_a_tensor_is_cut():
    whole = rounding.noise(0, 1000, 7, CPU)
    cut = torch.cat([rounding.noise(start, 250, 7, CPU) for start in range(0, 1000, 250)])
    assert torch.equal(whole, cut)
    assert not torch.equal(whole, rounding.noise(0, 1000, 8, CPU))


def test_random_bits_are_even():
    drawn = rounding.noise(0, 1 << 16, 3, CPU).double()
    assert abs(drawn.mean() + 0.5) < 5 * 65536 / 12**0.5 / 256  # the mean of 65536 draws, within five deviations
    assert drawn.std() == pytest.approx(65536 / 12**0.5, rel=0.02)


@pytest.mark.parametrize("value", [1.0 + 2**-9, -3.0 - 2**-8, 1e-30, -7e20, 0.1])
def test_stochastic_rounding_takes_a_neighbour_and_is_right_on_average(value):
    count = 1 << 16
    rounded = rounding.stochastic_(torch.full((count,), value), rounding.noise(0, count, 11, CPU))
    exact = float(torch.tensor(value))  # as float32
    found = rounded.double().unique().tolist()
    assert len(found) == 2 and min(found) < exact < max(found)
    assert max(found) - min(found) <= abs(exact) * 2**-7, "neighbours in bfloat16"
    deviation = (max(found) - min(found)) / 2 / count**0.5
    assert abs(float(rounded.double().mean()) - exact) < 5 * deviation


def test_what_bfloat16_holds_stays():
    values = torch.tensor([0.0, -0.0, 1.0, -2.5, 3e38]).bfloat16()
    for key in range(20):
        kept = rounding.stochastic_(values.float(), rounding.noise(0, 5, key, CPU))
        assert torch.equal(kept.view(torch.int16), values.view(torch.int16))


def test_codes_by_hand():
    values = torch.tensor([0.0, 4.0, -1.0, 1e-3])
    codes, scale = rounding.encode_signed(values)
    # sqrt(1/4) * 127 = 63.5, half to even; sqrt(1e-3 / 4) * 127 = 2.008
    assert scale.tolist() == [4.0] and codes.tolist() == [0, 127, -64, 2]
    assert rounding.decode_signed(codes, scale).tolist() == pytest.approx(
        [0, 4, -4 * (64 / 127) ** 2, 4 * (2 / 127) ** 2]
    )
    codes, scale = rounding.encode_unsigned(values.square())
    assert scale.tolist() == [16.0] and codes.tolist() == [0, 255, 128, 4]
    assert rounding.decode_unsigned(codes, scale).tolist() == pytest.approx(
        [0, 16, 16 * (128 / 255) ** 4, 16 * (4 / 255) ** 4]
    )


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1000])
def test_blocks_do_not_know_each_other(count):
    generator = torch.Generator().manual_seed(count)
    values = torch.randn(count, generator=generator) * 10.0 ** torch.arange(count).div(256, rounding_mode="floor")
    for encode, decode, given in (
        (rounding.encode_signed, rounding.decode_signed, values),
        (rounding.encode_unsigned, rounding.decode_unsigned, values.square()),
    ):
        codes, scales = encode(given)
        assert len(codes) == count and len(scales) == rounding.blocks(count) == -(-count // 256)
        kept = decode(codes, scales)
        for block in range(len(scales)):
            part = slice(block * 256, (block + 1) * 256)
            assert torch.equal(kept[part], decode(*encode(given[part])))
            assert scales[block] == given[part].abs().max()
        large = given.abs() > 0.01 * scales.repeat_interleave(256)[:count]
        assert ((kept - given).abs() <= 0.09 * given.abs())[large].all()


def test_a_second_moment_is_never_lost_where_a_first_one_is_kept():
    """Else the step would divide by eps."""
    first = torch.logspace(-20, 0, 256)
    codes, scale = rounding.encode_unsigned(first.square())
    assert (codes > 0).all() and (rounding.decode_unsigned(codes, scale) > 0).all()
    assert rounding.encode_unsigned(torch.zeros(256))[0].eq(0).all()


def test_a_block_of_zeros_is_zero():
    codes, scale = rounding.encode_signed(torch.zeros(300))
    assert rounding.decode_signed(codes, scale).eq(0).all()
