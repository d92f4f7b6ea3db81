//! The one rounding of the engine.

#[cfg(core_family = "cortex-m4")]
use crate::arch::cortex_m4::rounded_product;
#[cfg(any(core_family = "cortex-m0", core_family = "riscv32", test))]
use product::rounded_product;

/// Everything but the multiplier that turns an accumulator into an output.
#[derive(Clone, Copy, Debug)]
pub(in crate::infer) struct Requant {
    /// n, 1..=32.
    pub(in crate::infer) shift: u8,
    pub(in crate::infer) zero_point: i32,
    pub(in crate::infer) lo: i32,
    pub(in crate::infer) hi: i32,
}

impl Requant {
    /// `clamp(z + ((acc·M + 2^(n−1)) >> n), lo, hi)`, the product in 64 bits, halves rounded up.
    #[inline(always)]
    pub(in crate::infer) fn apply(&self, acc: i32, multiplier: i32) -> i8 {
        // |acc| ≤ 2^(n−1) by the overflow check of `parse`: the shifted product fits 32 bits, and so does acc·2^(32−n).
        #[cfg(any(core_family = "cortex-m4", core_family = "cortex-m0", core_family = "riscv32"))]
        {
            let left = 32u32.wrapping_sub(self.shift.into());
            // A shift by 32 − n and n ≥ 1: never by 32.
            self.clamp(rounded_product(acc.wrapping_shl(left), multiplier, self.zero_point))
        }
        #[cfg(not(any(core_family = "cortex-m4", core_family = "cortex-m0", core_family = "riscv32")))]
        {
            let shift = u32::from(self.shift);
            let half = 1i64.wrapping_shl(shift.wrapping_sub(1));
            self.finish((i64::from(acc) * i64::from(multiplier) + half).wrapping_shr(shift) as i32)
        }
    }

    /// The shift to the left before a multiplication that keeps the upper 32 bits.
    #[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
    pub(super) fn left(&self) -> u32 {
        32u32.wrapping_sub(self.shift.into())
    }

    /// The smallest and the largest result.
    #[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
    pub(super) fn limits(&self) -> [i32; 2] {
        [self.lo, self.hi]
    }

    /// For kernels of a family, which clamp to int8 only; the rest is [`Self::clamp_all`].
    #[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
    pub(super) fn rounding(&self) -> crate::arch::cortex_m4::Rounding {
        let left = 32u32.wrapping_sub(self.shift.into());
        crate::arch::cortex_m4::Rounding { left, zero_point: self.zero_point }
    }

    /// Clamps results that already are int8.
    #[cfg(any(
        core_family = "cortex-m4",
        core_family = "cortex-m0",
        core_family = "riscv32",
        all(test, feature = "alloc")
    ))]
    pub(super) fn clamp_all(&self, out: &mut [i8]) {
        if self.lo > i8::MIN.into() || self.hi < i8::MAX.into() {
            #[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
            crate::arch::cortex_m4::clamp(out, self.lo as i8, self.hi as i8);
            #[cfg(not(any(core_family = "cortex-m4", all(test, feature = "alloc"))))]
            out.iter_mut().for_each(|y| *y = self.clamp((*y).into()));
        }
    }

    /// Adds the zero point and clamps.
    #[inline(always)]
    pub(in crate::infer) fn finish(&self, rounded: i32) -> i8 {
        self.clamp(rounded.wrapping_add(self.zero_point))
    }

    #[inline(always)]
    fn clamp(&self, y: i32) -> i8 {
        let y = if y < self.lo { self.lo } else { y };
        (if y > self.hi { self.hi } else { y }) as i8
    }
}

#[cfg(any(core_family = "cortex-m0", core_family = "riscv32", test))]
mod product {
    /// `add + (a·b + 2^31 >> 32)`, modulo 2^32; b is not negative.
    #[inline(always)]
    pub(super) fn rounded_product(a: i32, b: i32, add: i32) -> i32 {
        #[cfg(not(any(thumb1, test)))]
        {
            let product = i64::from(a) * i64::from(b);
            let carry = (product as u32 >> 31).cast_signed();
            ((product >> 32) as i32).wrapping_add(carry).wrapping_add(add)
        }
        // From products of halves: there is no wider multiplication.
        #[cfg(any(thumb1, test))]
        {
            let (a_high, a_low) = (a >> 16, a & 0xFFFF);
            let (b_high, b_low) = (b >> 16, b & 0xFFFF);
            let lowest = a_low.wrapping_mul(b_low).cast_unsigned() >> 16;
            // Within −2^31..2^31: (2^15 − 1)·(2^16 − 1) + 2^16 − 1.
            let middle = a_high.wrapping_mul(b_low).wrapping_add(lowest.cast_signed());
            // Within 0..2^32: (2^16 − 1)·(2^15 − 1) + 2^16 − 1 + 2^15.
            let rest = a_low.wrapping_mul(b_high).wrapping_add(middle & 0xFFFF).wrapping_add(1 << 15);
            let carry = (rest.cast_unsigned() >> 16).cast_signed();
            a_high.wrapping_mul(b_high).wrapping_add(middle >> 16).wrapping_add(carry).wrapping_add(add)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_of_halves_are_exact() {
        let edges = [0, 1, 2, 0x7FFF, 0x8000, 0xFFFF, 0x1_0000, 0x7FFF_FFFF, 0x7FFF_8000, 0x1234_5678];
        for a in edges.into_iter().flat_map(|a| [a, -a - 1, !a & i32::MAX, a.wrapping_neg()]) {
            for b in edges.into_iter().flat_map(|b| [b, i32::MAX - b]) {
                let exact = (i64::from(a) * i64::from(b) + (1 << 31)) >> 32;
                assert_eq!(i64::from(rounded_product(a, b, 0)), exact, "{a}·{b}");
            }
        }
    }

    #[test]
    fn equals_the_real_number_formula() {
        for (shift, multiplier) in [(32u8, 1i32 << 30), (32, 12_345_678), (31, i32::MAX), (1, 1), (20, 3)] {
            let r = Requant { shift, zero_point: -5, lo: -128, hi: 127 };
            let room = i64::from(i32::MAX) >> (32 - shift);
            for step in -500i64..=500 {
                let acc = step * room / 500;
                let exact = acc as f64 * f64::from(multiplier) / 2f64.powi(shift.into());
                let expected = ((exact + 0.5).floor() - 5.0).clamp(-128.0, 127.0) as i8;
                assert_eq!(r.apply(acc as i32, multiplier), expected, "{acc}·{multiplier} >> {shift}");
            }
        }
    }
}
