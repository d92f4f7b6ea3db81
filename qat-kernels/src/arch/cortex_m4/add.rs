//! Sums of two tensors, four values at once.

#[cfg(core_family = "cortex-m4")]
use core::arch::naked_asm;

/// What turns two values into their sum: `sat8((a·m_a + b·m_b + constant >> shift) + zero_point)`, then the clamp; all modulo
/// 2^32. The loop reads it in this order, a word a field.
#[repr(C)]
pub(crate) struct Sum {
    pub(crate) multipliers: [i32; 2],
    pub(crate) constant: i32,
    /// Less than 32.
    pub(crate) shift: u32,
    pub(crate) zero_point: i32,
    /// Smallest and largest result, in every byte.
    limits: [u32; 2],
}

impl Sum {
    pub(crate) fn new(
        multipliers: [i32; 2],
        constant: i32,
        shift: u32,
        zero_point: i32,
        limits: [i8; 2],
    ) -> Self {
        let limits = limits.map(|x| u32::from(x.cast_unsigned()).wrapping_mul(0x0101_0101));
        Self { multipliers, constant, shift, zero_point, limits }
    }

    /// Sums of as many values as both have, in fours; returns how many that are. `None` if there is less room for them.
    pub(crate) fn add(&self, a: &[i8], b: &[i8], out: &mut [i8]) -> Option<usize> {
        let fours = if a.len() < b.len() { a.len() / 4 } else { b.len() / 4 };
        (out.len() >= fours * 4).then_some(())?;
        // SAFETY: both operands and the result have so many values.
        unsafe { self.fours(a.as_ptr(), b.as_ptr(), out.as_mut_ptr(), fours) };
        Some(fours * 4)
    }

    /// The same where the result takes the place of the first operand.
    pub(crate) fn add_in_place(&self, a: &mut [i8], b: &[i8]) -> usize {
        let fours = if a.len() < b.len() { a.len() / 4 } else { b.len() / 4 };
        let out = a.as_mut_ptr();
        // SAFETY: both operands have so many values; four are read before their sums are written.
        unsafe { self.fours(out.cast_const(), b.as_ptr(), out, fours) };
        fours * 4
    }

    /// # Safety
    /// `a` and `b` must be readable and `out` writable for four times `fours` values; `out` may be one of the others.
    unsafe fn fours(&self, a: *const i8, b: *const i8, out: *mut i8, fours: usize) {
        if fours == 0 {
            return;
        }
        #[cfg(core_family = "cortex-m4")]
        // SAFETY: the caller vouches for the pointers.
        unsafe {
            fours_asm(self, a, b, out, fours);
        }
        #[cfg(not(core_family = "cortex-m4"))]
        for at in 0..4 * fours {
            // SAFETY: as above.
            let (a, b) = unsafe { (i32::from(*a.add(at)), i32::from(*b.add(at))) };
            let [m_a, m_b] = self.multipliers;
            let sum = a.wrapping_mul(m_a).wrapping_add(self.constant).wrapping_add(b.wrapping_mul(m_b));
            let [lo, hi] = self.limits.map(|x| x as i8);
            let y = (sum >> self.shift).wrapping_add(self.zero_point).clamp(-128, 127) as i8;
            // SAFETY: as above.
            unsafe { out.add(at).write(y.clamp(lo, hi)) };
        }
    }
}

/// One value of four: byte `$byte` of both operands, to the same byte of r9.
#[cfg(core_family = "cortex-m4")]
macro_rules! value {
    ($byte:literal, $to:literal) => {
        concat!(
            "sxtb lr, r11, ror #",
            $byte,
            "\n sxtb r10, r12, ror #",
            $byte,
            "\n",
            "mla lr, lr, r4, r6\n mla lr, r10, r5, lr\n asr lr, lr, r7\n add lr, lr, r8\n ssat lr, #8, lr\n",
            $to,
        )
    };
}

/// # Safety
/// As [`Sum::fours`], and `fours` must not be zero.
#[cfg(core_family = "cortex-m4")]
#[unsafe(naked)]
unsafe extern "C" fn fours_asm(sum: &Sum, a: *const i8, b: *const i8, out: *mut i8, fours: usize) {
    naked_asm!(
        "push {{r4-r11, lr}}",
        "ldrd r11, r12, [r0, #20]",
        "ldm r0, {{r4-r8}}",
        "ldr r0, [sp, #36]", // fours
        "push {{r11, r12}}",
        "1:",
        "ldr r11, [r1], #4",
        "ldr r12, [r2], #4",
        value!("0", "mov r9, lr\n"),
        value!("8", "bfi r9, lr, #8, #8\n"),
        value!("16", "bfi r9, lr, #16, #8\n"),
        value!("24", "bfi r9, lr, #24, #8\n"),
        "ldrd r11, r12, [sp]",
        "ssub8 lr, r9, r11",
        "sel r9, r9, r11",
        "ssub8 lr, r12, r9",
        "sel r9, r9, r12",
        "str r9, [r3], #4",
        "subs r0, r0, #1",
        "bne.w 1b",
        "add sp, sp, #8",
        "pop {{r4-r11, pc}}",
    )
}
