//! Short copies. The compiler's own function pays about as much for its call and its tests as for a line of a window.

#[cfg(core_family = "cortex-m4")]
use core::arch::asm;

/// Bytes that one turn of the loop copies.
const BLOCK: usize = 16;

/// Copies `from` to `to`; the shorter one decides how much.
#[inline(always)]
pub(crate) fn copy(to: &mut [i8], from: &[i8]) {
    let (blocks, tail) = to.as_chunks_mut::<BLOCK>();
    let (from_blocks, from_tail) = from.as_chunks::<BLOCK>();
    #[cfg(core_family = "cortex-m4")]
    {
        let count = if blocks.len() < from_blocks.len() { blocks.len() } else { from_blocks.len() };
        if count > 0 {
            // SAFETY: copies `count` blocks, which both slices have. `LDR` and `STR` take any address.
            unsafe {
                asm!(
                    "2:",
                    "ldr {a}, [{from}], #4", "ldr {b}, [{from}], #4", "ldr {c}, [{from}], #4", "ldr {d}, [{from}], #4",
                    "str {a}, [{to}], #4", "str {b}, [{to}], #4", "str {c}, [{to}], #4", "str {d}, [{to}], #4",
                    "subs {count}, #1",
                    "bne 2b",
                    a = out(reg) _, b = out(reg) _, c = out(reg) _, d = out(reg) _,
                    from = inout(reg) from_blocks.as_ptr() => _,
                    to = inout(reg) blocks.as_mut_ptr() => _,
                    count = inout(reg) count => _,
                    options(nostack),
                );
            }
        }
    }
    #[cfg(not(core_family = "cortex-m4"))]
    blocks.iter_mut().zip(from_blocks).for_each(|(to, from)| *to = *from);
    if blocks.len() == from_blocks.len() {
        for (to, &from) in tail.iter_mut().zip(from_tail) {
            *to = from;
        }
    }
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
