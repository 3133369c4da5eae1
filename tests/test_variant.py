"""hwnas/variant.py: precision and batch are part of the operator, and a variant of a space is a space."""

import numpy as np
import pytest

from hwnas.blocks import conv_bn_act, mbconv
from hwnas.costs import macs, params
from hwnas.errors import InputError
from hwnas.graph import ABSENT, IDENTITY, block_text, parse_block
from hwnas.index import BlockIndex
from hwnas.memory import peak_memory
from hwnas.spaces.ofa_mini import ofa_mini
from hwnas.variant import PRECISIONS, Variant, has_own_variants, variants_of

BLOCK = conv_bn_act((1, 3, 8, 8), 4)
MINI = ofa_mini(resolutions=(32,))


@pytest.mark.parametrize(
    ("variant", "text"),
    [
        (Variant(), "conv = conv2d.float32 1x3x8x8 out=4 k=3 act=relu (in0)"),
        (Variant("fp16"), "conv = conv2d.float16 1x3x8x8 out=4 k=3 act=relu (in0)"),
        (Variant("bf16", 8), "conv = conv2d.bfloat16 8x3x8x8 out=4 k=3 act=relu (in0)"),
        (Variant("int8_u8s8", 2), "conv = conv2d.int8_u8s8 2x3x8x8 out=4 k=3 act=relu (in0)"),
        (Variant("int8_s8s8"), "conv = conv2d.int8_s8s8 1x3x8x8 out=4 k=3 act=relu (in0)"),
    ],
)
def test_the_text_of_a_block_says_precision_and_batch_and_reads_back(variant, text):
    block = variant.block(BLOCK)
    assert block_text(block) == text
    assert block_text(parse_block(text)) == text
    assert variants_of([text]) == [variant]


@pytest.mark.parametrize("dtype", ["int8", "float8", "fp16", "int4_u8s8", ""])
def test_texts_of_other_precisions_are_refused(dtype):
    with pytest.raises(InputError, match=r"is no operator|is no node"):
        parse_block(f"conv = conv2d.{dtype} 1x3x8x8 out=4 (in0)")


def test_fp32_of_one_image_is_the_space_itself():
    index = BlockIndex(MINI)
    assert Variant().space(MINI) is MINI and Variant().index(index) is index and Variant().block(BLOCK) is BLOCK
    assert Variant().options == "" and Variant("fp16", 8).options == " --precision fp16 --batch 8"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_variant_of_a_space_is_a_space(precision):
    variant = Variant(precision, 3)
    index, deployed = BlockIndex(MINI), variant.index(BlockIndex(MINI))
    assert [block_text(block) for block in deployed.blocks] == [block_text(variant.block(block)) for block in index.blocks]
    assert all((ours == theirs).all() for ours, theirs in zip(index.tables, deployed.tables, strict=True))
    assert deployed.fingerprint != index.fingerprint
    np.testing.assert_array_equal(macs(deployed.blocks), 3 * macs(index.blocks))
    np.testing.assert_array_equal(params(deployed.blocks), params(index.blocks))
    assert deployed.space.lower(MINI.largest()).input == (3, 1, 32, 32)


def test_memory_counts_the_bytes_of_the_variant():
    index = BlockIndex(MINI)
    codes = MINI.sample(np.random.default_rng(0), 5)
    whole = peak_memory(index)(codes)
    for variant, share in ((Variant("fp16"), 1 / 2), (Variant("int8_u8s8"), 1 / 4), (Variant("fp16", 8), 4)):
        np.testing.assert_array_equal(peak_memory(index, variant.index(index))(codes), share * whole)


def test_skipped_and_absent_layers_stay_what_they_are():
    assert Variant("fp16", 2).block(IDENTITY) is IDENTITY and Variant("fp16", 2).block(ABSENT) is ABSENT


def test_blocks_with_a_precision_or_batch_of_their_own_take_no_other():
    for own in (Variant("fp16").block(BLOCK), conv_bn_act((2, 3, 8, 8), 4)):
        with pytest.raises(InputError, match="has a precision or a batch of its own, and takes no other"):
            Variant("bf16").block(own)
    assert has_own_variants(BlockIndex(ofa_mini(batch=2))) and not has_own_variants(BlockIndex(MINI))


def test_rows_of_mixed_precision_or_batch_are_of_no_variant():
    mixed = (mbconv((1, 8, 4, 4), 8, 3, 2)[0], *Variant("fp16").block(mbconv((1, 8, 4, 4), 8, 3, 2))[1:])
    assert variants_of([block_text(mixed), "identity", "absent", "conv = conv2d.float32 99999x3x8x8 out=4 (in0)"]) == []
    assert variants_of([block_text(Variant("fp16", 2).block(BLOCK)), block_text(BLOCK), block_text(BLOCK)]) == [Variant("fp16", 2), Variant()]


@pytest.mark.parametrize(("precision", "batch", "message"), [
    ("half", 1, "there is no precision 'half': it must be one of fp32, fp16, bf16, int8_u8s8, int8_s8s8, int8_fp16"),
    ("fp16", 0, "the batch must be from 1 to 4,096 images, got 0"),
    ("fp16", 4097, "got 4097"),
    ("fp16", True, "got True"),
])  # fmt: skip
def test_what_is_no_variant_is_refused(precision, batch, message):
    with pytest.raises(InputError, match=message):
        Variant(precision, batch)
