//! int8 activations to the halfwords that `SMLAD` reads.

use super::instructions::{smlad, sxtb16, sxtb16_ror8};

/// Writes each four activations as two words, (0, 2) and (1, 3), `LANES` words apart, multiplied by 8 if `SCALED`, and returns
/// their sum; `None` if `to` is too short.
#[inline(always)]
pub(crate) fn widen<const LANES: usize, const FOURS: usize, const SCALED: bool>(
    x: &[[i8; 4]; FOURS],
    to: &mut [u32],
) -> Option<i32> {
    let last = const { (2 * FOURS - 1) * LANES };
    to.get(last)?;
    let (ones, to) = (0x0001_0001, to.as_mut_ptr());
    let mut sum = 0;
    for (at, four) in x.iter().enumerate() {
        let four = u32::from_le_bytes(four.map(i8::cast_unsigned));
        let (even, odd) = (sxtb16(four), sxtb16_ror8(four));
        // The mask keeps the sign of the low halfword out of the high one.
        let scaled = |halves: u32| if SCALED { halves << 3 & 0xFFF8_FFF8 } else { halves };
        // SAFETY: the larger index is at most `last`, which was found inside.
        unsafe {
            to.add(2 * at * LANES).write(scaled(even));
            to.add((2 * at + 1) * LANES).write(scaled(odd));
        }
        sum = smlad(odd, ones, smlad(even, ones, sum));
    }
    Some(sum.cast_signed())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_to_their_lane() {
        let mut to = [9; 8];
        assert_eq!(
            widen::<2, 2, false>(&[[1, -2, 3, -4], [-128, 127, -128, 0]], to.get_mut(1..).unwrap()),
            Some(-131)
        );
        assert_eq!(to, [9, 0x0003_0001, 9, 0xFFFC_FFFE, 9, 0xFF80_FF80, 9, 0x0000_007F]);
        assert_eq!(widen::<2, 2, false>(&[[0; 4], [0; 4]], &mut [0; 6]), None);
        assert_eq!(widen::<1, 1, true>(&[[-1, 127, 2, -128]], &mut to), Some(0));
        assert_eq!(to.first_chunk(), Some(&[0x0010_FFF8, 0xFC00_03F8]));
    }
}
