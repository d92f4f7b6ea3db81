//! Short copies. The compiler's own function pays about as much for its call and its tests as for a line of a window.

use crate::arch::rectangle::Rectangle;
#[cfg(core_family = "cortex-m4")]
use core::arch::{asm, naked_asm};

/// Copies `from` to `to`; the shorter one decides how much.
#[cfg_attr(not(core_family = "cortex-m4"), allow(dead_code, reason = "compiled to be tested"))]
#[inline(always)]
pub(crate) fn copy(to: &mut [i8], from: &[i8]) {
    let len = if to.len() < from.len() { to.len() } else { from.len() };
    #[cfg(core_family = "cortex-m4")]
    // SAFETY: copies `len` bytes, which both slices have: blocks of 16, then words, then a halfword and a byte by the bits
    // of what is left. `LDR` and `STR` take any address.
    unsafe {
        asm!(
            "subs {len}, #16",
            "blo 3f",
            "2:",
            "ldr {a}, [{from}], #4", "ldr {b}, [{from}], #4", "ldr {c}, [{from}], #4", "ldr {d}, [{from}], #4",
            "str {a}, [{to}], #4", "str {b}, [{to}], #4", "str {c}, [{to}], #4", "str {d}, [{to}], #4",
            "subs {len}, #16",
            "bhs 2b",
            "3:",
            "adds {len}, #12",
            "bmi 5f",
            "4:",
            "ldr {a}, [{from}], #4",
            "str {a}, [{to}], #4",
            "subs {len}, #4",
            "bpl 4b",
            "5:",
            "lsls {len}, {len}, #31",
            "itt cs",
            "ldrhcs {a}, [{from}], #2",
            "strhcs {a}, [{to}], #2",
            "itt mi",
            "ldrbmi {a}, [{from}]",
            "strbmi {a}, [{to}]",
            a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
            from = inout(reg) from.as_ptr() => _,
            to = inout(reg) to.as_mut_ptr() => _,
            len = inout(reg) len => _,
            options(nostack),
        );
    }
    #[cfg(not(core_family = "cortex-m4"))]
    to.iter_mut().zip(from).take(len).for_each(|(to, from)| *to = *from);
}

/// Copies a rectangle; `None` if either slice is too short for it.
#[inline(always)]
pub(crate) fn copy_rectangle(to: &mut [i8], from: &[i8], rectangle: &Rectangle) -> Option<()> {
    if !rectangle.fits(to, from) {
        return None;
    }
    #[cfg(core_family = "cortex-m4")]
    // SAFETY: there is a line at least, and both slices reach as far as the last line's end.
    unsafe {
        copy_lines(to.as_mut_ptr(), from.as_ptr(), rectangle);
    }
    #[cfg(not(core_family = "cortex-m4"))]
    rectangle.copy(to, from)?;
    Some(())
}

/// Every line as in [`copy`].
///
/// # Safety
/// Both pointers must be valid for all lines of the rectangle, of which there is one at least.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn copy_lines(to: *mut i8, from: *const i8, rectangle: &Rectangle) {
    naked_asm!(
        "push {{r4-r9, lr}}",
        "ldm r2, {{r2-r5}}",
        "1:",
        "mov r6, r0",
        "mov r7, r1",
        "subs r8, r3, #16",
        "blo 3f",
        "2:",
        "ldr r9, [r7], #4\n ldr r12, [r7], #4\n str r9, [r6], #4\n str r12, [r6], #4",
        "ldr r9, [r7], #4\n ldr r12, [r7], #4\n str r9, [r6], #4\n str r12, [r6], #4",
        "subs r8, #16",
        "bhs 2b",
        "3:",
        "adds r8, #12",
        "bmi 5f",
        "4:",
        "ldr r9, [r7], #4",
        "str r9, [r6], #4",
        "subs r8, #4",
        "bpl 4b",
        "5:",
        "lsls r8, r8, #31",
        "itt cs",
        "ldrhcs r9, [r7], #2",
        "strhcs r9, [r6], #2",
        "itt mi",
        "ldrbmi r9, [r7]",
        "strbmi r9, [r6]",
        "add r0, r4",
        "add r1, r5",
        "subs r2, #1",
        "bne 1b",
        "pop {{r4-r9, pc}}",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_length_is_copied_and_no_more() {
        let from: Vec<i8> = (1..100).collect();
        for len in 0..70 {
            let mut to = [0; 80];
            copy(to.get_mut(5..5 + len).unwrap(), from.get(..len).unwrap());
            assert_eq!(to.get(5..5 + len), from.get(..len));
            assert!(to.iter().take(5).chain(to.iter().skip(5 + len)).all(|&b| b == 0));
        }
    }

    #[test]
    fn a_rectangle_is_copied_line_by_line() {
        let from: Vec<i8> = (0..60).collect();
        let rectangle = Rectangle::new(3, 5, 6, 20).unwrap();
        let mut to = [-1; 18];
        copy_rectangle(&mut to[1..], &from[2..], &rectangle).unwrap();
        assert_eq!(to, [-1, 2, 3, 4, 5, 6, -1, 22, 23, 24, 25, 26, -1, 42, 43, 44, 45, 46]);
        assert!(copy_rectangle(&mut to[2..], &from[2..], &rectangle).is_none());
        assert!(copy_rectangle(&mut to, &from[16..], &rectangle).is_none());
    }
}
