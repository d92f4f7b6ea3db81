//! Work in units, shared out to threads where that pays, with results that do not depend on the number of threads.

use rayon::prelude::*;

/// Elements per unit of work on long slices. Sums are formed within units and then over the units in order.
pub(crate) const UNIT: usize = 1 << 14;

/// Fewer units than this are done on the spot: waking another thread takes about as long as a unit.
const FEW: usize = 8;

/// Does `work` on every unit; the results come in the order of the units.
pub(crate) fn in_units<U: Send, R: Send>(units: Vec<U>, work: impl Fn(U) -> R + Sync + Send) -> Vec<R> {
    if units.len() < FEW || rayon::current_num_threads() == 1 {
        units.into_iter().map(work).collect()
    } else {
        units.into_par_iter().map(work).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_or_many_the_order_stays() {
        for n in [0, 1, FEW, 1000] {
            let squares = in_units((0..n).collect(), |i| i * i);
            assert!(squares.iter().enumerate().all(|(i, &s)| s == i * i) && squares.len() == n);
        }
    }
}
