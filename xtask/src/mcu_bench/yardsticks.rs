//! What the counts are held against: goals, and CMSIS-NN's int8 and int4 kernels on the same shapes.
//!
//! CMSIS-NN was counted once, at commit 99f736a, built with gcc 12.2 -O3, on the same emulated cores between the same
//! markers; it is not part of this project. Our 4-bit kernels are held against its int4 kernels, all others against int8.
//! Goals of adaptive k are relative: 10 % more than the same layer with one k.

/// A layer on a core.
struct Row {
    /// Core and shape, as in the names of cases.
    shape: &'static str,
    /// Goals at 2 and at 3 bits.
    goals: [Option<f64>; 2],
    /// Counts of CMSIS-NN with int8 and with int4 weights.
    rivals: Option<[f64; 2]>,
}

const fn row(shape: &'static str, goals: [Option<f64>; 2], rivals: Option<[f64; 2]>) -> Row {
    Row { shape, goals, rivals }
}

const ROWS: [Row; 13] = [
    row("m4_fc_256x128", [Some(0.75), Some(1.0)], Some([2.07, 5.07])),
    row("m4_fc_640x128", [Some(0.72), Some(1.0)], Some([1.95, 4.95])),
    row("m4_conv3x3_16x32", [Some(0.7), None], Some([2.14, 3.91])),
    row("m4_conv1x1_64x64", [Some(0.75), None], Some([2.09, 3.75])),
    row("m4_dw3x3_64", [Some(4.0), None], Some([8.33, 15.7])),
    row("m3_fc_256x128", [Some(1.1), None], Some([3.52, 5.18])),
    row("m3_fc_640x128", [Some(1.1), None], Some([3.43, 5.07])),
    row("m0_fc_256x128", [Some(1.45), None], Some([6.42, 8.03])),
    row("m0_fc_640x128", [Some(1.45), None], Some([6.19, 7.79])),
    row("m55_fc_256x128", [Some(0.2), None], Some([0.52, 0.47])),
    row("m55_fc_640x128", [Some(0.2), None], Some([0.49, 0.4])),
    row("rv32_fc_256x128", [Some(1.7), None], None),
    row("rv32_fc_640x128", [Some(1.7), None], None),
];

/// The goal of a case, if it has one.
pub(super) fn goal(shape: &str, bits: u8) -> Option<f64> {
    let row = ROWS.into_iter().find(|row| row.shape == shape)?;
    *row.goals.get(usize::from(bits.checked_sub(2)?))?
}

/// The rival of a case, and its count.
pub(super) fn rival(shape: &str, bits: u8) -> Option<(&'static str, f64)> {
    let [int8, int4] = ROWS.into_iter().find(|row| row.shape == shape)?.rivals?;
    Some(if bits == 4 { ("CMSIS-NN s4", int4) } else { ("CMSIS-NN s8", int8) })
}
