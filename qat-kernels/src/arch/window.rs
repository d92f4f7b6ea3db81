//! Where the taps of a depthwise kernel's window lie.

/// The places of a window's taps in an input of height × width × channels at `x`, given as `[top, left]`, which wrap below zero:
/// one after the other to `taps`, and `outside` for those outside the input.
#[allow(
    clippy::inline_always,
    reason = "a call for each output pixel of a depthwise layer costs 1.4 % of it"
)]
#[inline(always)]
pub(crate) fn place<'a>(
    x: *const i8,
    [height, width, channels]: [usize; 3],
    [kernel_h, kernel_w]: [usize; 2],
    [top, left]: [usize; 2],
    outside: *const i8,
    mut taps: impl Iterator<Item = &'a mut *const i8>,
) {
    for y in (0..kernel_h).map(|ky| top.wrapping_add(ky)) {
        let column = y.wrapping_mul(width).wrapping_add(left);
        let mut at = x.wrapping_add(column.wrapping_mul(channels));
        for (kx, tap) in (0..kernel_w).zip(&mut taps) {
            let inside = y < height && left.wrapping_add(kx) < width;
            *tap = if inside { at } else { outside };
            at = at.wrapping_add(channels);
        }
    }
}
