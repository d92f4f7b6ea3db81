//! Every instruction set that this machine has, on the portable order, which is multiplied in place, and on those of core
//! families, which are taken apart first.

use super::super::equality::Family;
use crate::arch::{Backend, Isa};
use crate::artifact::{OpKind, Target};

/// The backend number `ISA`, if there is one here.
fn backend<const ISA: usize>() -> Option<Backend> {
    Backend::new(Isa::ALL[ISA])
}

const fn family<const ISA: usize>(target: Target) -> Family {
    Family {
        target,
        // A window, whatever else the family would like to have.
        scratch_len: |_, kind, _, window| Some(if matches!(kind, OpKind::Conv2d) { window } else { 0 }),
        linear: |x, weights, requant, scratch, out| {
            super::linear(backend::<ISA>()?, x, weights, requant, scratch, out)
        },
        conv2d: |x, windows, weights, requant, zero, scratch, out| {
            super::conv2d(backend::<ISA>()?, x, windows, weights, requant, zero, scratch, out)
        },
        depthwise: |x, windows, weights, requant, zero, scratch, out| {
            super::depthwise_conv2d(backend::<ISA>()?, x, windows, weights, requant, zero, scratch, out)
        },
    }
}

/// The order that is read in place, and one that is not.
const TARGETS: [Target; 2] = [Target::Portable, Target::CortexM4];

/// Calls `check` for every backend of this machine.
fn on_every_backend(check: fn(&Family)) {
    let mut run = 0;
    let mut on = |isa: Isa, families: [Family; 2]| {
        if Backend::new(isa).is_some() {
            families.iter().for_each(check);
            run += 1;
        }
    };
    on(Isa::ALL[0], TARGETS.map(family::<0>));
    on(Isa::ALL[1], TARGETS.map(family::<1>));
    on(Isa::ALL[2], TARGETS.map(family::<2>));
    on(Isa::ALL[3], TARGETS.map(family::<3>));
    on(Isa::ALL[4], TARGETS.map(family::<4>));
    on(Isa::ALL[5], TARGETS.map(family::<5>));
    assert_eq!(run, Backend::available().count());
}

#[test]
fn linear_equals_the_portable_kernel() {
    on_every_backend(Family::linear_equals_the_portable_kernel);
}

#[test]
fn convolutions_equal_the_portable_kernel() {
    on_every_backend(Family::convolutions_equal_the_portable_kernel);
}

#[test]
fn depthwise_equals_the_portable_kernel() {
    on_every_backend(Family::depthwise_equals_the_portable_kernel);
}
