//! Float functions behind one name: `libm` by default, `micromath` (approximate, smaller, faster without an FPU) with
//! the feature of that name.
//!
//! Everything that decides a code, a step or a logit uses additions, multiplications, divisions and square roots only;
//! square root is always libm's, correctly rounded. The approximate functions touch calibration statistics and nothing
//! else, so that the feature cannot change a model's output.

/// Square root, correctly rounded on every core.
#[must_use]
#[inline]
pub fn sqrt(x: f32) -> f32 {
    libm::sqrtf(x)
}

/// Natural logarithm.
#[must_use]
#[inline]
pub fn ln(x: f32) -> f32 {
    #[cfg(not(feature = "micromath"))]
    {
        libm::logf(x)
    }
    #[cfg(feature = "micromath")]
    {
        micromath::F32Ext::ln(x)
    }
}

/// Natural exponential.
#[must_use]
#[inline]
pub fn exp(x: f32) -> f32 {
    #[cfg(not(feature = "micromath"))]
    {
        libm::expf(x)
    }
    #[cfg(feature = "micromath")]
    {
        micromath::F32Ext::exp(x)
    }
}

/// Largest integer not above `x`.
#[must_use]
#[inline]
pub fn floor(x: f32) -> f32 {
    libm::floorf(x)
}
