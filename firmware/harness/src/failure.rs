//! How a program ends, and what it says when it fails.

use qat_kernels::artifact::Target;
use qat_kernels::{Error, OpFault};

use crate::semihosting::{File, exit};

/// Why a program gave up.
#[derive(Clone, Copy, Debug)]
pub struct Failure {
    what: &'static str,
    detail: Detail,
}

/// What there is to add.
#[derive(Clone, Copy, Debug)]
enum Detail {
    None,
    Sizes { needed: usize, there: usize },
    Cores { packed_for: Target, device: Target },
}

impl Failure {
    /// A failure with nothing to add.
    pub const fn new(what: &'static str) -> Self {
        Self { what, detail: Detail::None }
    }

    /// Something is smaller than needed.
    pub const fn too_small(what: &'static str, needed: usize, there: usize) -> Self {
        Self { what, detail: Detail::Sizes { needed, there } }
    }

    /// `Model::parse` refuses a file.
    pub const fn refused(error: Error) -> Self {
        match error {
            Error::Op { fault: OpFault::Target { packed_for, device }, .. } => {
                Self { what: "the model is for another core", detail: Detail::Cores { packed_for, device } }
            }
            _ => Self::new("the model is refused; `qat verify` names the fault"),
        }
    }
}

/// Ends the emulation: status 0, or the failure on standard error and status 1.
pub fn finish(result: Result<(), Failure>) -> ! {
    let Err(failure) = result else { exit(0) };
    // There is nobody to tell when telling fails.
    let _ = report(failure);
    exit(1)
}

fn report(failure: Failure) -> Option<()> {
    let mut out = File::stderr()?;
    out.write(b"firmware: ")?;
    out.write(failure.what.as_bytes())?;
    match failure.detail {
        Detail::None => {}
        Detail::Sizes { needed, there } => {
            out.write(b": ")?;
            decimal(&mut out, needed)?;
            out.write(b" bytes needed, ")?;
            decimal(&mut out, there)?;
            out.write(b" there")?;
        }
        Detail::Cores { packed_for, device } => {
            out.write(b": packed for ")?;
            out.write(packed_for.name().as_bytes())?;
            out.write(b", runs on ")?;
            out.write(device.name().as_bytes())?;
            out.write(b"; `qat export --target ")?;
            out.write(device.name().as_bytes())?;
            out.write(b"` packs it again")?;
        }
    }
    out.write(b"\n")
}

/// Writes `value`, most significant digit first.
fn decimal(out: &mut File, value: usize) -> Option<()> {
    // From a table, because a divisor that shrinks in a loop brings the check for division by zero, and a panic.
    const POWERS: [usize; 10] =
        [1_000_000_000, 100_000_000, 10_000_000, 1_000_000, 100_000, 10_000, 1_000, 100, 10, 1];
    for power in POWERS {
        if value >= power || power == 1 {
            let digit = value.checked_div(power).unwrap_or(0) % 10;
            out.write(&[b'0' + digit as u8])?;
        }
    }
    Some(())
}
