use super::super::equality::{Family, Numbers, requant};
use super::super::{self as portable, Requant};
use crate::artifact::Target;
use crate::infer::cortex_m4::scratch_len;

const FAMILY: Family = Family {
    target: Target::CortexM4,
    scratch_len: |spec, kind, [channels, columns], window| scratch_len(kind, spec, columns, channels, window),
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

#[test]
fn sums_equal_the_portable_kernel() {
    let n = &mut Numbers(4);
    for len in [0, 1, 3, 4, 5, 64, 71] {
        for _ in 0..50 {
            let (a, b) = (n.activations(len), n.activations(len));
            let zero_points = [0; 2].map(|_: u8| (n.below(256) - 128) as i8);
            let multipliers = [0; 2].map(|_: u8| n.below((1 << 21) + 1) as i32);
            let requant = Requant { shift: 18 + n.below(8) as u8, ..requant(n) };
            let mut out = [vec![0; len], vec![0; len], a.clone()];
            portable::add([&a, &b], zero_points, multipliers, &requant, &mut out[0]).unwrap();
            super::add([&a, &b], zero_points, multipliers, &requant, &mut out[1]).unwrap();
            super::add_in_place(&mut out[2], &b, zero_points, multipliers, &requant).unwrap();
            assert_eq!((&out[1], &out[2]), (&out[0], &out[0]));
        }
    }
}
