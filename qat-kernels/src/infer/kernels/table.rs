//! Functions of one value, and of one row of values, by table.

use super::Requant;
use super::rows::each_row;

/// `y = table[x + 128]`: the sigmoid, or any other function of one int8 value.
pub(in crate::infer) fn table(x: &[i8], table: &[u8; 256], out: &mut [i8]) {
    for (y, &x) in out.iter_mut().zip(x) {
        // The bytes of −128..=127 in order are 128..=255, 0..=127.
        let index = usize::from(x.cast_unsigned() ^ 0x80);
        *y = table.get(index).copied().unwrap_or_default().cast_signed();
    }
}

/// Softmax over each row of `channels` values: `y = clamp(−128 + ⌊(256·e_i + ⌊S/2⌋)/S⌋)` with `e_i = table[max − x_i]` and
/// `S = Σ e_i`. No intermediate exceeds 32 bits: e ≤ 2^15, channels < 2^16.
pub(in crate::infer) fn softmax(
    x: &[i8],
    channels: usize,
    table: &[[u8; 2]],
    requant: &Requant,
    out: &mut [i8],
) -> Option<()> {
    each_row(x, out, channels, |x, out| {
        let largest = x.iter().fold(i8::MIN, |largest, &x| if x > largest { x } else { largest });
        let power = |x: i8| {
            let below = i32::from(largest) - i32::from(x);
            Some(u32::from(u16::from_le_bytes(*table.get(below.cast_unsigned() as usize)?)))
        };
        let mut sum = 0u32;
        for &x in x {
            sum = sum.wrapping_add(power(x)?);
        }
        for (y, &x) in out.iter_mut().zip(x) {
            let share = (power(x)? << 8).wrapping_add(sum / 2).checked_div(sum)?;
            *y = requant.finish(share.cast_signed());
        }
        Some(())
    })
}
