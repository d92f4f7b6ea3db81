//! Low-rank adapters (LoRA, Hu et al. 2021): the rank of `W + s·A·B` and what it costs.

use crate::error::{Error, Result};

/// A rank that fits its layer, INV-6: `1 ≤ r ≤ min(d_in, d_out)`.
///
/// It carries the layer's shape, so that no count below can be asked for a layer the rank was not checked against.
///
/// ```
/// use qat_kernels::{Error, lora::Rank};
/// let rank = Rank::new(16, 896, 4864)?;
/// assert_eq!(rank.parameters(), 16 * (896 + 4864));
/// assert!(rank.saves());
/// assert_eq!(Rank::new(0, 896, 4864), Err(Error::Rank { rank: 0, max: 896 }));
/// # Ok::<(), Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rank {
    rank: usize,
    d_in: usize,
    d_out: usize,
}

impl Rank {
    /// A rank for a layer of `d_in` inputs and `d_out` outputs.
    ///
    /// # Errors
    /// [`Error::Rank`] unless `1 ≤ rank ≤ min(d_in, d_out)`; a layer without inputs or outputs has no rank at all.
    ///
    /// ```
    /// use qat_kernels::{Error, Result, lora::Rank};
    /// const HEAD: Result<Rank> = Rank::new(10, 64, 10); // checked while compiling
    /// assert_eq!(HEAD?.get(), 10);
    /// assert_eq!(Rank::new(11, 64, 10), Err(Error::Rank { rank: 11, max: 10 }));
    /// # Ok::<(), Error>(())
    /// ```
    pub const fn new(rank: usize, d_in: usize, d_out: usize) -> Result<Self> {
        let max = if d_in < d_out { d_in } else { d_out };
        if rank == 0 || rank > max {
            return Err(Error::Rank { rank, max });
        }
        Ok(Self { rank, d_in, d_out })
    }

    /// The rank.
    ///
    /// ```
    /// let rank = qat_kernels::lora::Rank::new(8, 320, 960)?;
    /// let alpha = 16.0;
    /// assert_eq!(alpha / rank.get() as f32, 2.0); // the s that most trainers give an adapter, α/r
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn get(self) -> usize {
        self.rank
    }

    /// Weights of A (`d_out × r`) and B (`r × d_in`) together, `r·(d_in + d_out)`; clamped to `usize::MAX`.
    ///
    /// ```
    /// let rank = qat_kernels::lora::Rank::new(3, 100, 30)?;
    /// assert_eq!(rank.parameters(), 90 + 300); // A is 30 × 3, B is 3 × 100
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn parameters(self) -> usize {
        self.rank.saturating_mul(self.d_in.saturating_add(self.d_out))
    }

    /// Weights of the layer itself, `d_in·d_out`; clamped to `usize::MAX`.
    ///
    /// ```
    /// use qat_kernels::lora::Rank;
    /// assert_eq!(Rank::new(4, 784, 10)?.layer_parameters(), 7840); // whatever the rank
    /// assert_eq!(Rank::new(1, usize::MAX, 2)?.layer_parameters(), usize::MAX); // clamped
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn layer_parameters(self) -> usize {
        self.d_in.saturating_mul(self.d_out)
    }

    /// Whether the adapter has fewer weights than the layer. A rank above `d_in·d_out/(d_in + d_out)` has not, though
    /// INV-6 allows it.
    ///
    /// ```
    /// use qat_kernels::lora::Rank;
    /// let saves = |rank| Rank::new(rank, 12, 4).map(Rank::saves);
    /// assert_eq!([saves(2)?, saves(3)?], [true, false]); // 2·16 and 3·16 weights, the layer has 12·4
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub const fn saves(self) -> bool {
        self.parameters() < self.layer_parameters()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exactly_the_ranks_up_to_the_smaller_side_exist() {
        for (d_in, d_out) in [(1, 1), (3, 7), (7, 3), (16, 16)] {
            let max = d_in.min(d_out);
            for rank in 0..20 {
                let got = Rank::new(rank, d_in, d_out);
                if (1..=max).contains(&rank) {
                    assert_eq!(got.unwrap().get(), rank);
                } else {
                    assert_eq!(got, Err(Error::Rank { rank, max }));
                }
            }
        }
        assert_eq!(Rank::new(1, 0, 5), Err(Error::Rank { rank: 1, max: 0 }));
    }

    #[test]
    fn counts_are_those_of_the_two_matrices_and_never_wrap() {
        let r = Rank::new(2, 3, 5).unwrap();
        assert_eq!((r.parameters(), r.layer_parameters(), r.saves()), (16, 15, false));
        assert!(Rank::new(1, 3, 5).unwrap().saves());
        let huge = Rank::new(usize::MAX, usize::MAX, usize::MAX).unwrap();
        assert_eq!((huge.parameters(), huge.layer_parameters()), (usize::MAX, usize::MAX));
    }
}
