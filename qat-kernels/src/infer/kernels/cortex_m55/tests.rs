use super::super::equality::Family;
use crate::artifact::Target;
use crate::infer::cortex_m55::scratch_len;

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

#[test]
fn depthwise_equals_the_portable_kernel() {
    FAMILY.depthwise_equals_the_portable_kernel();
}
