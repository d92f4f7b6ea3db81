//! Short copies. The compiler's own function pays about as much for its call and its tests as for a line of a window.

#[cfg(core_family = "cortex-m4")]
use core::arch::asm;

/// Copies `from` to `to`; the shorter one decides how much.
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
}
