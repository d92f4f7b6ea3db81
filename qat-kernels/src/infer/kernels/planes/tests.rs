use super::super::equality::Family;
use crate::artifact::Target;
use crate::infer::planes::scratch_len;

/// They differ in how many tables a linear layer keeps at once.
const FAMILIES: [Family; 2] = [family(Target::CortexM0), family(Target::RiscV32)];

const fn family(target: Target) -> Family {
    Family {
        target,
        scratch_len: match target {
            Target::RiscV32 => {
                |spec, kind, shape, window| scratch_len(Target::RiscV32, spec, kind, shape, window)
            }
            _ => |spec, kind, shape, window| scratch_len(Target::CortexM0, spec, kind, shape, window),
        },
        linear: super::linear,
        conv2d: super::conv2d,
        depthwise: super::depthwise_conv2d,
    }
}

#[test]
fn linear_equals_the_portable_kernel() {
    FAMILIES.iter().for_each(Family::linear_equals_the_portable_kernel);
}

#[test]
fn convolutions_equal_the_portable_kernel() {
    FAMILIES.iter().for_each(Family::convolutions_equal_the_portable_kernel);
}

#[test]
fn depthwise_equals_the_portable_kernel() {
    FAMILIES.iter().for_each(Family::depthwise_equals_the_portable_kernel);
}
