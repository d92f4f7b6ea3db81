use super::super::equality::Family;
use crate::artifact::Target;
use crate::infer::cortex_m55::{block_pairs, scratch_len};

const FAMILY: Family = Family {
    target: Target::CortexM55,
    scratch_len: |spec, kind, shape, _| scratch_len(spec, kind, shape),
    linear: super::linear,
    conv2d: super::conv2d,
    depthwise: super::depthwise_conv2d,
};

#[test]
fn linear_equals_the_portable_kernel() {
    FAMILY.linear_equals_the_portable_kernel();
}

#[test]
fn convolutions_equal_the_portable_kernel() {
    FAMILY.convolutions_equal_the_portable_kernel();
}

/// Blocks of 16, 8, 4 and 2 pairs of pixels, all with a rest.
#[test]
fn blocks_of_every_size_equal_the_portable_kernel() {
    let sizes = [[5, 32], [30, 640], [5, 1024], [5, 2560]];
    assert_eq!(sizes.map(|[rows, columns]| block_pairs(rows, columns)), [16, 8, 4, 2].map(Some));
    for [rows, columns] in sizes {
        FAMILY.pointwise_equals_the_portable_kernel([2, 16], [rows, columns], [5, 7]);
        FAMILY.pointwise_equals_the_portable_kernel([2, 32], [rows, columns], [3, 11]);
    }
}

#[test]
fn depthwise_equals_the_portable_kernel() {
    FAMILY.depthwise_equals_the_portable_kernel();
}
