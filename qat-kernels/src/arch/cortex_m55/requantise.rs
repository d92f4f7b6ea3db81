//! From sums to results, four channels a vector.

use super::Words;
use crate::artifact::cortex_m55::{QUAD, is_unsigned};

#[cfg(core_family = "cortex-m55")]
use core::arch::naked_asm;

/// Left shifts that turn the sums of the rows of a quad into twice the sums of their codes; negative ones shift to the right.
pub(super) const fn places(bits: u8) -> [i32; QUAD] {
    match bits {
        2 => [1, -1, -3, -5],
        3 => [1, -2, -1, 1],
        4 => [1, -3, 1, -3],
        _ => [1; QUAD],
    }
}

/// What twice a code lacks of `level2`: codes without sign are `2^(b−1)` too large, and on the mid-rise grid `level2` is one more
/// than twice the code.
pub(super) fn ones(bits: u8, mid_rise: bool) -> [i32; QUAD] {
    [0, 1, 2, 3].map(|row| {
        let too_large = if is_unsigned(bits, row) { 1i32.wrapping_shl(bits.into()) } else { 0 };
        i32::from(mid_rise).wrapping_sub(too_large)
    })
}

/// How the sums of a layer become results: `clamp(zero_point + ((acc << left)·M + 2^31 >> 32))` with
/// `acc = 2·Σ code·x + ones·Σ x + bias`. The loops read it as it lies here.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub(crate) struct Scaling {
    /// Left shifts that turn the sums of a quad into `2·Σ code·x << left`; negative ones shift to the right.
    shifts: Words,
    /// What the rows of a quad lack for each of a pixel's activations, shifted.
    ones: Words,
    lo: Words,
    hi: Words,
    left: i32,
    zero_point: i32,
    /// The sums of all activations of each pixel.
    pub(crate) activations: [i32; 2],
}

impl Scaling {
    /// For the sums of codes of so many bits, on the mid-rise or the mid-tread grid; results lie between the limits.
    pub(crate) fn of_codes(bits: u8, mid_rise: bool, left: u32, zero_point: i32, limits: [i32; 2]) -> Self {
        Self::new(places(bits), ones(bits, mid_rise), left, zero_point, limits)
    }

    /// For the sums of twice the levels.
    pub(crate) fn of_levels(left: u32, zero_point: i32, limits: [i32; 2]) -> Self {
        Self::new([0; QUAD], [0; QUAD], left, zero_point, limits)
    }

    fn new(places: [i32; QUAD], ones: [i32; QUAD], left: u32, zero_point: i32, [lo, hi]: [i32; 2]) -> Self {
        Self {
            shifts: Words(places.map(|place| left.cast_signed().wrapping_add(place))),
            ones: Words(ones.map(|one| one.wrapping_shl(left))),
            lo: Words([lo; QUAD]),
            hi: Words([hi; QUAD]),
            left: left.cast_signed(),
            zero_point,
            activations: [0; 2],
        }
    }
}

/// What one call computes; the loops read it in this order, a word a field.
#[cfg(core_family = "cortex-m55")]
#[repr(C)]
struct Task<'a> {
    sums: *const u32,
    params: *const [[u8; 8]; QUAD],
    out: [*mut i8; 2],
    quads: usize,
    /// Bytes of the sums of a quad.
    stride: usize,
    scaling: &'a Scaling,
}

/// The results of all channels of one or two pixels, `params.len()` each. `sums` holds, for each quad of channels, four words
/// of every one of `held` pixels.
pub(crate) fn requantise<const PIXELS: usize>(
    sums: &[u32],
    held: usize,
    params: &[[u8; 8]],
    scaling: &Scaling,
    mut out: [&mut [i8]; PIXELS],
) -> Option<()> {
    const { assert!(PIXELS == 1 || PIXELS == 2) };
    let channels = params.len();
    let (whole, rest) = params.as_chunks::<QUAD>();
    let of_quad = held.checked_mul(QUAD)?;
    if PIXELS > held || (PIXELS == 2 && held > 2) || out.iter().any(|out| out.len() != channels) {
        return None;
    }
    let (sums, more) = sums.split_at_checked(whole.len().checked_mul(of_quad)?)?;
    if !whole.is_empty() {
        quads(sums, of_quad, whole, scaling, out.each_mut().map(|out| &mut **out));
    }
    // Channels that fill no quad, through a place where four have room.
    if !rest.is_empty() {
        let mut params = [[0; 8]; QUAD];
        params.iter_mut().zip(rest).for_each(|(to, &from)| *to = from);
        let mut room = [[0; QUAD]; PIXELS];
        let sums = more.get(..of_quad)?;
        quads(sums, of_quad, &[params], scaling, room.each_mut().map(|room| room.as_mut_slice()));
        for (out, room) in out.iter_mut().zip(&room) {
            let (_, out) = out.split_at_mut_checked(whole.len() * QUAD)?;
            out.iter_mut().zip(room).for_each(|(to, &from)| *to = from);
        }
    }
    Some(())
}

/// The caller has compared all lengths: `sums` has `of_quad` words for every quad, which are those of `PIXELS` pixels at least,
/// and each of `out` has four bytes for it; there is at least one quad.
#[inline(always)]
fn quads<const PIXELS: usize>(
    sums: &[u32],
    of_quad: usize,
    params: &[[[u8; 8]; QUAD]],
    scaling: &Scaling,
    mut out: [&mut [i8]; PIXELS],
) {
    debug_assert_eq!(sums.len(), params.len() * of_quad);
    debug_assert!(of_quad >= PIXELS * QUAD);
    debug_assert!(out.iter().all(|out| out.len() >= params.len() * QUAD));
    #[cfg(core_family = "cortex-m55")]
    {
        let (Some(first), Some(last)) =
            (out.first_mut().map(|out| out.as_mut_ptr()), out.last_mut().map(|out| out.as_mut_ptr()))
        else {
            return;
        };
        let task = Task {
            sums: sums.as_ptr(),
            params: params.as_ptr(),
            out: [first, last],
            quads: params.len(),
            stride: of_quad * 4,
            scaling,
        };
        // SAFETY: sums, parameters and results have the lengths that the assertions above state. Sums are aligned words;
        // parameters are read as words, and `Model::parse` has found them aligned.
        unsafe { if PIXELS == 1 { one_pixel(&task) } else { two_pixels(&task) } }
    }
    #[cfg(not(core_family = "cortex-m55"))]
    twin(sums, of_quad, params, scaling, &mut out);
}

/// One vector: sums times two in q0, to be corrected, biased, multiplied, rounded, clamped and stored.
#[cfg(core_family = "cortex-m55")]
macro_rules! results {
    ($correction:literal, $out:literal) => {
        concat!(
            "vshl.s32 q0, q0, q3\n vadd.i32 q0, q0, ",
            $correction,
            "\n vadd.i32 q0, q0, q1\n vrmulh.s32 q0, q0, q2\n vadd.i32 q0, q0, r5\n",
            "vmax.s32 q0, q0, q6\n vmin.s32 q0, q0, q7\n vstrb.32 q0, [",
            $out,
            "], #4\n",
        )
    };
}

/// r0 sums, r1 parameters, r2 and r3 results, r4 left shift, r5 zero point, r6 bytes of the sums of a quad; q0 a vector, q1
/// biases, q2 multipliers, q3 shifts, q4 and q5 corrections, q6 and q7 limits.
#[cfg(core_family = "cortex-m55")]
macro_rules! kernel {
    ($name:ident, $($work:expr),*) => {
        /// # Safety
        /// All pointers of the task must be valid for its quads, of which there is at least one.
        #[unsafe(naked)]
        unsafe extern "C" fn $name(task: &Task<'_>) {
            naked_asm!(
                helium!(),
                "push {{r4-r6, lr}}",
                "vpush {{d8-d15}}",
                "ldrd lr, r6, [r0, #16]",
                "ldr r12, [r0, #24]",
                "ldrd r2, r3, [r0, #8]",
                "ldrd r0, r1, [r0]",
                "ldrd r4, r5, [r12, #72]",
                "vldrw.u32 q3, [r12]",
                "vldrw.u32 q0, [r12, #16]",
                "vmul.i32 q4, q0, r4",
                "vmul.i32 q5, q0, r5",
                "ldrd r4, r5, [r12, #64]",
                "vldrw.u32 q6, [r12, #32]",
                "vldrw.u32 q7, [r12, #48]",
                "dls lr, lr",
                "2:",
                "vld20.32 {{q1, q2}}, [r1]",
                "vld21.32 {{q1, q2}}, [r1]!",
                "vshl.s32 q1, r4",
                $($work,)*
                "le lr, 2b",
                "vpop {{d8-d15}}",
                "pop {{r4-r6, pc}}",
            )
        }
    };
}

#[cfg(core_family = "cortex-m55")]
kernel!(one_pixel, "vldrw.u32 q0, [r0]\n add r0, r0, r6\n", results!("q4", "r2"));
#[cfg(core_family = "cortex-m55")]
kernel!(
    two_pixels,
    "vldrw.u32 q0, [r0], #16\n",
    results!("q4", "r2"),
    "vldrw.u32 q0, [r0], #16\n",
    results!("q5", "r3")
);

/// The same loops in Rust.
#[cfg(not(core_family = "cortex-m55"))]
fn twin<const PIXELS: usize>(
    sums: &[u32],
    of_quad: usize,
    params: &[[[u8; 8]; QUAD]],
    scaling: &Scaling,
    out: &mut [&mut [i8]; PIXELS],
) {
    for (quad, (sums, params)) in sums.chunks_exact(of_quad).zip(params).enumerate() {
        let pixels = sums.as_chunks::<QUAD>().0.iter().zip(scaling.activations);
        for ((sums, activations), out) in pixels.zip(out.iter_mut()) {
            for row in 0..QUAD {
                let [b0, b1, b2, b3, m0, m1, m2, m3] = params[row];
                let bias = i32::from_le_bytes([b0, b1, b2, b3]) << scaling.left;
                let multiplier = i64::from(i32::from_le_bytes([m0, m1, m2, m3]));
                let sum = sums[row].cast_signed();
                let shift = scaling.shifts.0[row];
                let twice = if shift < 0 { sum >> -shift } else { sum << shift };
                let acc =
                    twice.wrapping_add(scaling.ones.0[row].wrapping_mul(activations)).wrapping_add(bias);
                let rounded = ((i64::from(acc) * multiplier + (1 << 31)) >> 32) as i32;
                let y =
                    rounded.wrapping_add(scaling.zero_point).max(scaling.lo.0[row]).min(scaling.hi.0[row]);
                out[quad * QUAD + row] = y as i8;
            }
        }
    }
}
