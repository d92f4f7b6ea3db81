//! Activations to the rows that the loops read, with their sum.

use crate::arch::rectangle::Rectangle;
#[cfg(core_family = "cortex-m55")]
use core::arch::naked_asm;

/// Copies a rectangle and returns the sum of its values; `None` if either slice is too short for it.
#[inline(always)]
pub(crate) fn gather(to: &mut [i8], from: &[i8], rectangle: &Rectangle) -> Option<i32> {
    if !rectangle.fits(to, from) {
        return None;
    }
    #[cfg(core_family = "cortex-m55")]
    // SAFETY: there is a line at least, and both slices reach as far as the last line's end.
    unsafe {
        Some(gather_asm(to.as_mut_ptr(), from.as_ptr(), rectangle))
    }
    #[cfg(not(core_family = "cortex-m55"))]
    {
        rectangle.copy(to, from)?;
        let values = rectangle.lines_of(from).flatten();
        Some(values.map(|&x| i32::from(x)).sum())
    }
}

/// Sixteen bytes a turn, the last ones of a line by predication.
///
/// # Safety
/// Both pointers must be valid for all lines of the rectangle, of which there is one at least.
#[cfg(core_family = "cortex-m55")]
#[unsafe(naked)]
unsafe extern "C" fn gather_asm(to: *mut i8, from: *const i8, rectangle: &Rectangle) -> i32 {
    naked_asm!(
        helium!(),
        "push {{r4-r7, lr}}",
        "ldrd r3, r4, [r2]",
        "ldrd r5, r6, [r2, #8]",
        "mov r12, #0",
        "2:",
        "mov r2, r0",
        "mov r7, r1",
        "wlstp.8 lr, r4, 4f",
        "3:",
        "vldrb.u8 q0, [r7], #16",
        "vstrb.8 q0, [r2], #16",
        "vaddva.s8 r12, q0",
        "letp lr, 3b",
        "4:",
        "add r0, r0, r5",
        "add r1, r1, r6",
        "subs r3, r3, #1",
        "bne 2b",
        "mov r0, r12",
        "pop {{r4-r7, pc}}",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rectangle_is_copied_and_no_more() {
        let from: Vec<i8> = (0..100).collect();
        for (lines, len) in [(1, 0), (1, 1), (2, 16), (3, 17), (4, 15)] {
            let rectangle = Rectangle::new(lines, len, 20, 23).unwrap();
            let (mut to, mut expected, mut sum) = ([-1; 100], [-1; 100], 0);
            for (line, at) in (0..lines).flat_map(|line| (0..len).map(move |at| (line, at))) {
                expected[5 + 20 * line + at] = from[7 + 23 * line + at];
                sum += i32::from(from[7 + 23 * line + at]);
            }
            assert_eq!(gather(&mut to[5..], &from[7..], &rectangle), Some(sum));
            assert_eq!(to, expected);
        }
        assert!(Rectangle::new(0, 4, 4, 50).is_none());
        assert_eq!(gather(&mut [0; 7], &from, &Rectangle::new(2, 4, 4, 50).unwrap()), None);
        assert_eq!(gather(&mut [0; 70], &from, &Rectangle::new(3, 4, 4, 50).unwrap()), None);
    }
}
