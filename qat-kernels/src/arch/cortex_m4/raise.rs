//! Maxima of four values at once.

#[cfg(core_family = "cortex-m4")]
use core::arch::asm;

/// Raises every value to the one of `x` at its place if that is larger; the shorter one decides how many.
#[inline]
pub(crate) fn raise(to: &mut [i8], x: &[i8]) {
    let (fours, tail) = to.as_chunks_mut::<4>();
    let (x_fours, x_tail) = x.as_chunks::<4>();
    let same = fours.len() == x_fours.len();
    for (to, &x) in fours.iter_mut().zip(x_fours) {
        let word = |four: [i8; 4]| u32::from_le_bytes(four.map(i8::cast_unsigned));
        *to = larger(word(*to), word(x)).to_le_bytes().map(u8::cast_signed);
    }
    if same {
        tail.iter_mut().zip(x_tail).for_each(|(y, &x)| *y = if x > *y { x } else { *y });
    }
}

/// The larger ones of four signed bytes each.
#[inline(always)]
fn larger(a: u32, b: u32) -> u32 {
    #[cfg(core_family = "cortex-m4")]
    {
        let larger;
        // SAFETY: reads and writes registers and the GE flags only, which nothing else uses.
        unsafe {
            asm!("ssub8 {0}, {1}, {2}", "sel {0}, {1}, {2}", out(reg) larger, in(reg) a, in(reg) b, options(pure, nomem, nostack));
        };
        larger
    }
    #[cfg(not(core_family = "cortex-m4"))]
    {
        let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
        let larger = |i: usize| a[i].cast_signed().max(b[i].cast_signed()).cast_unsigned();
        u32::from_le_bytes([larger(0), larger(1), larger(2), larger(3)])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_value_is_raised_and_no_more() {
        let x: Vec<i8> = (0..40).map(|i| ((i * 77) % 256 - 128) as i8).collect();
        for len in 0..20 {
            let before: Vec<i8> = (0..20).map(|i| ((i * 41) % 256 - 128) as i8).collect();
            let mut to = before.clone();
            raise(to.get_mut(..len).unwrap(), x.get(..len).unwrap());
            for (i, (&to, &before)) in to.iter().zip(&before).enumerate() {
                assert_eq!(to, if i < len { before.max(*x.get(i).unwrap()) } else { before });
            }
        }
    }
}
