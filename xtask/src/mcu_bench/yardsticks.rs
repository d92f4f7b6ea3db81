//! What the counts are held against: goals, and CMSIS-NN's int8 kernels on the same shapes.
//!
//! CMSIS-NN was counted once, at commit 99f736a, built with gcc 12.2 -O3, on the same emulated cores between the same
//! markers; it is not part of this project. Goals of adaptive k are relative: 10 % more than the same layer with one k.

/// Who the counts are compared with.
pub(super) const RIVAL: &str = "CMSIS-NN s8";

/// A layer on a core.
struct Row {
    /// Core and shape, as in the names of cases.
    shape: &'static str,
    /// Goals at 2 and at 3 bits.
    goals: [Option<f64>; 2],
    /// The rival's count.
    rival: Option<f64>,
}

const fn row(shape: &'static str, goals: [Option<f64>; 2], rival: Option<f64>) -> Row {
    Row { shape, goals, rival }
}

const ROWS: [Row; 13] = [
    row("m4_fc_256x128", [Some(0.75), Some(1.0)], Some(2.07)),
    row("m4_fc_640x128", [Some(0.72), Some(1.0)], Some(1.95)),
    row("m4_conv3x3_16x32", [Some(0.7), None], Some(2.14)),
    row("m4_conv1x1_64x64", [Some(0.75), None], Some(2.09)),
    row("m4_dw3x3_64", [Some(4.0), None], Some(8.33)),
    row("m3_fc_256x128", [Some(1.1), None], Some(3.52)),
    row("m3_fc_640x128", [Some(1.1), None], Some(3.43)),
    row("m0_fc_256x128", [Some(1.45), None], Some(6.42)),
    row("m0_fc_640x128", [Some(1.45), None], Some(6.19)),
    row("m55_fc_256x128", [Some(0.2), None], Some(0.52)),
    row("m55_fc_640x128", [Some(0.2), None], Some(0.49)),
    row("rv32_fc_256x128", [Some(1.7), None], None),
    row("rv32_fc_640x128", [Some(1.7), None], None),
];

/// The goal of a case, if it has one.
pub(super) fn goal(shape: &str, bits: u8) -> Option<f64> {
    let row = ROWS.into_iter().find(|row| row.shape == shape)?;
    *row.goals.get(usize::from(bits.checked_sub(2)?))?
}

/// The rival's count for a shape.
pub(super) fn rival(shape: &str) -> Option<f64> {
    ROWS.into_iter().find(|row| row.shape == shape)?.rival
}
