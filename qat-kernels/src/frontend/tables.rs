//! Sines and logarithms in integers. The tables are computed by the compiler, in f64; what runs has integers only.

/// Steps of a full turn.
pub(super) const TURN: u32 = 1 << TURN_BITS;
const TURN_BITS: u32 = 11;
const QUARTER: usize = 1 << (TURN_BITS - 2);

/// sin(2π·i/2048) in Q31, the first quarter with both ends; 1 is 2^31 − 1.
static SINES: [i32; QUARTER + 1] = sines();

const fn sines() -> [i32; QUARTER + 1] {
    let mut table = [0; QUARTER + 1];
    let mut i = 0;
    while i <= QUARTER {
        let x = core::f64::consts::FRAC_PI_2 * i as f64 / QUARTER as f64;
        // The Taylor series to x^21; what is left out is below 1e-17.
        let (mut term, mut sum, mut n) = (x, x, 1.0);
        while n < 20.0 {
            term *= -x * x / ((n + 1.0) * (n + 2.0));
            sum += term;
            n += 2.0;
        }
        let scaled = sum * 2_147_483_648.0 + 0.5;
        table[i] = if scaled >= 2_147_483_647.0 { i32::MAX } else { scaled as i32 };
        i += 1;
    }
    table
}

/// Cosine and sine of `angle`/2048 turns in Q31.
#[inline]
pub(super) fn cos_sin(angle: u32) -> [i32; 2] {
    let at = (angle as usize) & (QUARTER - 1);
    let sine = |i: usize| SINES.get(i).copied().unwrap_or(0);
    let (sin, cos) = (sine(at), sine(QUARTER.wrapping_sub(at)));
    match (angle >> (TURN_BITS - 2)) & 3 {
        0 => [cos, sin],
        1 => [sin.wrapping_neg(), cos],
        2 => [cos.wrapping_neg(), sin.wrapping_neg()],
        _ => [sin, cos.wrapping_neg()],
    }
}

/// The cosine of `phase`/2^32 turns in Q31, to within 2^−27: the second-order expansion about the nearest entry.
#[inline]
pub(super) fn cosine(phase: u32) -> i32 {
    const REST: u32 = 32 - TURN_BITS;
    /// 2π in Q28.
    const TWO_PI: i64 = 1_686_629_713;
    let nearest = phase.wrapping_add(1 << (REST - 1)) >> REST;
    let [cos, sin] = cos_sin(nearest).map(i64::from);
    let turns = i64::from(phase.wrapping_sub(nearest << REST).cast_signed());
    // Radians in Q31: turns are in Q32.
    let d = (turns * TWO_PI) >> 29;
    let value = cos - ((d * sin) >> 31) - ((((d * d) >> 31) * cos) >> 32);
    value.clamp(-i64::from(i32::MAX), i64::from(i32::MAX)) as i32
}

/// Parts of an octave in the table of logarithms.
const PARTS: usize = 128;

/// log2(1 + i/128) and 1/(1 + i/128), both in Q31.
static LOGARITHMS: [[u32; 2]; PARTS] = logarithms();

const fn logarithms() -> [[u32; 2]; PARTS] {
    let mut table = [[0; 2]; PARTS];
    let mut i = 0;
    while i < PARTS {
        let x = i as f64 / PARTS as f64;
        // ln(1 + x) = 2·artanh(x/(2 + x)), the argument at most 1/3: the terms to the 39th power are enough.
        let y = x / (2.0 + x);
        let (mut power, mut sum, mut n) = (y, 0.0, 1.0);
        while n < 40.0 {
            sum += power / n;
            power *= y * y;
            n += 2.0;
        }
        let log2 = 2.0 * sum / core::f64::consts::LN_2;
        let inverse = 2_147_483_648.0 / (1.0 + x) + 0.5;
        table[i] = [(log2 * 2_147_483_648.0 + 0.5) as u32, inverse as u32];
        i += 1;
    }
    table
}

/// log2(x) in Q24 for x ≥ 1, to within 2^−21; 0 for x = 0.
#[inline]
pub(super) const fn log2(x: u64) -> u32 {
    /// 1/ln 2 in Q30.
    const SLOPE: u64 = 1_549_082_005;
    if x == 0 {
        return 0;
    }
    let zeros = x.leading_zeros();
    let mantissa = (x << zeros) >> 32; // 1.xxx in Q31
    // The mask makes this an index of the table, and the compiler leaves the check out.
    let [log, inverse] = LOGARITHMS[(mantissa >> 24) as usize & (PARTS - 1)];
    let r = ((mantissa & 0x00FF_FFFF) * inverse as u64) >> 31; // x = part·(1 + r), r < 1/128 in Q31
    let rest = ((r - ((r * r) >> 32)) * SLOPE) >> 30; // (r − r²/2)/ln 2
    ((63 - zeros) << 24) + ((log as u64 + rest + 64) >> 7) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sines_and_cosines_are_within_their_bounds() {
        for angle in 0..2 * TURN {
            let x = f64::from(angle) * core::f64::consts::TAU / f64::from(TURN);
            let [cos, sin] = cos_sin(angle).map(|v| f64::from(v) / 2f64.powi(31));
            assert!(
                (cos - x.cos()).abs() < 2f64.powi(-30) && (sin - x.sin()).abs() < 2f64.powi(-30),
                "{angle}"
            );
        }
        let mut worst = 0f64;
        for i in 0..200_000u32 {
            let phase = i.wrapping_mul(2_654_435_761);
            let x = f64::from(phase) * core::f64::consts::TAU / 2f64.powi(32);
            worst = worst.max((f64::from(cosine(phase)) / 2f64.powi(31) - x.cos()).abs());
        }
        assert!(worst < 2f64.powi(-27), "{worst}");
    }

    #[test]
    fn logarithms_are_within_their_bound_and_never_fall() {
        assert_eq!([0, 1, 2, 1 << 20].map(log2), [0, 0, 1 << 24, 20 << 24]);
        let mut before = 0;
        for i in 0..400_000u64 {
            let x = (i + 1) * (i / 7 + 1) * (i / 1000 + 1);
            let wanted = (x as f64).log2();
            assert!((f64::from(log2(x)) / 2f64.powi(24) - wanted).abs() < 2f64.powi(-21), "{x}");
            assert!(log2(x) >= before);
            before = log2(x);
        }
        assert!((f64::from(log2(u64::MAX)) / 2f64.powi(24) - 64.0).abs() < 2f64.powi(-21));
    }
}
