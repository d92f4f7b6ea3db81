//! Single instructions, and what they compute where they do not exist.

#[cfg(core_family = "cortex-m4")]
use core::arch::asm;

/// `SXTB16`: bytes 0 and 2 as two signed halfwords.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) fn sxtb16(x: u32) -> u32 {
    let [a, _, b, _] = x.to_le_bytes();
    halves(a.cast_signed().into(), b.cast_signed().into())
}

/// `SXTB16` with a rotation by 8: bytes 1 and 3 as two signed halfwords.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) fn sxtb16_ror8(x: u32) -> u32 {
    sxtb16(x.rotate_right(8))
}

/// `SMLAD`: `acc` plus the products of the low and of the high halfwords, signed, modulo 2^32.
#[cfg(not(core_family = "cortex-m4"))]
pub(super) fn smlad(a: u32, b: u32, acc: u32) -> u32 {
    let product = |shift: u32| {
        let half = |x: u32| i32::from((x >> shift) as u16 as i16);
        half(a).wrapping_mul(half(b)).cast_unsigned()
    };
    acc.wrapping_add(product(0)).wrapping_add(product(16))
}

/// `SMMLAR`: `add + (a·b + 2^31 >> 32)`, modulo 2^32.
#[inline(always)]
pub(crate) fn rounded_product(a: i32, b: i32, add: i32) -> i32 {
    #[cfg(core_family = "cortex-m4")]
    {
        let sum;
        // SAFETY: reads and writes registers only.
        unsafe {
            asm!("smmlar {0}, {1}, {2}, {3}", out(reg) sum, in(reg) a, in(reg) b, in(reg) add, options(pure, nomem, nostack, preserves_flags));
        };
        sum
    }
    #[cfg(not(core_family = "cortex-m4"))]
    add.wrapping_add(((i64::from(a) * i64::from(b) + (1 << 31)) >> 32) as i32)
}

#[cfg(not(core_family = "cortex-m4"))]
fn halves(low: i16, high: i16) -> u32 {
    u32::from(low.cast_unsigned()) | u32::from(high.cast_unsigned()) << 16
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn halfwords_are_signed() {
        assert_eq!(sxtb16(0x7F80_01FF), 0xFF80_FFFF);
        assert_eq!(sxtb16_ror8(0x7F80_01FF), 0x007F_0001);
        assert_eq!(smlad(halves(-128, 3), halves(-32768, -5), 7), 128 * 32768 - 15 + 7);
        assert_eq!(rounded_product(1 << 30, 2, -4), -3); // a half rounds up
        assert_eq!(rounded_product(-(1 << 30), 2, 0), 0);
        assert_eq!(rounded_product(i32::MIN, i32::MAX, 0), 1 - (1 << 30));
    }
}
