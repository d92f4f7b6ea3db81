//! Comparisons of four int8 at once: `SSUB8` sets a flag for each byte, by which `SEL` selects.

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

/// Clamps every value.
pub(crate) fn clamp(values: &mut [i8], lo: i8, hi: i8) {
    let all = |x: i8| u32::from(x.cast_unsigned()).wrapping_mul(0x0101_0101);
    let (fours, tail) = values.as_chunks_mut::<4>();
    for four in fours {
        let word = u32::from_le_bytes(four.map(i8::cast_unsigned));
        *four = smaller(larger(word, all(lo)), all(hi)).to_le_bytes().map(u8::cast_signed);
    }
    for value in tail {
        let raised = if *value < lo { lo } else { *value };
        *value = if raised > hi { hi } else { raised };
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
    bytewise(a, b, i8::max)
}

/// The smaller ones of four signed bytes each.
#[inline(always)]
fn smaller(a: u32, b: u32) -> u32 {
    #[cfg(core_family = "cortex-m4")]
    {
        let smaller;
        // SAFETY: as above.
        unsafe {
            asm!("ssub8 {0}, {2}, {1}", "sel {0}, {1}, {2}", out(reg) smaller, in(reg) a, in(reg) b, options(pure, nomem, nostack));
        };
        smaller
    }
    #[cfg(not(core_family = "cortex-m4"))]
    bytewise(a, b, i8::min)
}

#[cfg(not(core_family = "cortex-m4"))]
fn bytewise(a: u32, b: u32, of: fn(i8, i8) -> i8) -> u32 {
    let (a, b) = (a.to_le_bytes(), b.to_le_bytes());
    let byte = |i: usize| of(a[i].cast_signed(), b[i].cast_signed()).cast_unsigned();
    u32::from_le_bytes([byte(0), byte(1), byte(2), byte(3)])
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

    #[test]
    fn every_value_is_clamped() {
        for len in [0, 1, 4, 7, 256] {
            let before: Vec<i8> = (0..len).map(|i| ((i * 77) % 256 - 128) as i8).collect();
            for [lo, hi] in [[-128, 127], [-5, 90], [3, 3], [0, 127]] {
                let mut values = before.clone();
                clamp(&mut values, lo, hi);
                assert_eq!(values, before.iter().map(|&x| x.clamp(lo, hi)).collect::<Vec<_>>());
            }
        }
    }
}
