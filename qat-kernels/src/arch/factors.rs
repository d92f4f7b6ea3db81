//! The factors of groups of weights.

/// 60/k for k − 2 = 0..=3: the exact integer ratio of a group's step to the channel's base step α·π/60.
pub(crate) const GROUP_FACTORS: [u8; 4] = [30, 20, 15, 12];

/// Those of the four fields of every byte, the first one in the lowest bits.
#[cfg(any(
    core_family = "cortex-m0",
    core_family = "riscv32",
    core_family = "cortex-m55",
    all(test, feature = "alloc")
))]
pub(crate) static BYTE_FACTORS: [[u8; 4]; 256] = {
    let mut factors = [[0; 4]; 256];
    let mut byte = 0;
    while byte < factors.len() {
        let mut at = 0;
        while at < 4 {
            factors[byte][at] = GROUP_FACTORS[byte >> (2 * at) & 3];
            at += 1;
        }
        byte += 1;
    }
    factors
};
