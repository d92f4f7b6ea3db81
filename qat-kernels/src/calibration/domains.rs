//! How many examples came from where: the domain counts of INV-5.

use crate::error::{Error, Result, What};
use heapless::{String, Vec};

/// Most domains of a calibration.
pub const MAX_DOMAINS: usize = 16;
/// Longest name of a domain, in bytes of UTF-8.
pub const MAX_DOMAIN_NAME: usize = 24;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    name: String<MAX_DOMAIN_NAME>,
    examples: u64,
}

/// Examples per domain of the calibration data ("speech", "code", …), in alphabetical order, so that counting commutes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Domains {
    entries: Vec<Entry, MAX_DOMAINS>,
}

impl Domains {
    /// No domains yet.
    ///
    /// ```
    /// use qat_kernels::{Error, What, calibration::{CalibrationMethod, Domains, Provenance}};
    /// static NONE: Domains = Domains::new(); // at compile time
    /// let unknown = Provenance::new([7; 32], 1_767_225_600, CalibrationMethod::MinMax, &NONE);
    /// assert_eq!(unknown.validate(), Err(Error::Provenance { what: What::SampleCount }));
    /// ```
    #[must_use]
    pub const fn new() -> Self {
        Self { entries: Vec::new() }
    }

    /// Counts `examples` more of a domain. Counts saturate at `u64::MAX`.
    ///
    /// # Errors
    /// [`Error::Empty`] for an empty name; [`Error::Capacity`] for a name of more than [`MAX_DOMAIN_NAME`] bytes
    /// ([`What::Text`]) or a domain beyond the [`MAX_DOMAINS`]th ([`What::Domains`]).
    ///
    /// ```
    /// use qat_kernels::{Error, What, calibration::{Domains, MAX_DOMAIN_NAME}};
    /// let mut domains = Domains::new();
    /// for batch in [("vision", 3), ("audio", 1), ("vision", 2)] {
    ///     domains.add(batch.0, batch.1)?;
    /// }
    /// assert!(domains.iter().eq([("audio", 1), ("vision", 5)]));
    /// let e = Error::Capacity { what: What::Text, capacity: MAX_DOMAIN_NAME };
    /// assert_eq!(domains.add("recordings of the second campaign", 1), Err(e));
    /// # Ok::<(), Error>(())
    /// ```
    pub fn add(&mut self, name: &str, examples: u64) -> Result<()> {
        if name.is_empty() {
            return Err(Error::Empty { what: What::Text });
        }
        match self.entries.binary_search_by(|e| e.name.as_str().cmp(name)) {
            Ok(at) => {
                if let Some(entry) = self.entries.get_mut(at) {
                    entry.examples = entry.examples.saturating_add(examples);
                }
                Ok(())
            }
            Err(at) => {
                let name = String::try_from(name)
                    .map_err(|_| Error::Capacity { what: What::Text, capacity: MAX_DOMAIN_NAME })?;
                self.entries
                    .insert(at, Entry { name, examples })
                    .map_err(|_| Error::Capacity { what: What::Domains, capacity: MAX_DOMAINS })
            }
        }
    }

    /// Adds all counts of `other`, or none.
    ///
    /// # Errors
    /// [`Error::Capacity`] if the two have more than [`MAX_DOMAINS`] names between them.
    ///
    /// ```
    /// # use qat_kernels::calibration::Domains;
    /// let (mut here, mut there) = (Domains::new(), Domains::new());
    /// here.add("speech", 2)?;
    /// there.add("music", 5)?;
    /// there.add("speech", 1)?;
    /// here.merge(&there)?;
    /// assert!(here.iter().eq([("music", 5), ("speech", 3)]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn merge(&mut self, other: &Self) -> Result<()> {
        let mut sum = self.clone();
        for (name, examples) in other.iter() {
            sum.add(name, examples)?;
        }
        *self = sum;
        Ok(())
    }

    /// Names and counts, alphabetically.
    ///
    /// ```
    /// # use qat_kernels::calibration::Domains;
    /// # let mut domains = Domains::new();
    /// domains.add("speech", 30)?;
    /// domains.add("music", 10)?;
    /// let percent = domains.iter().map(|(name, examples)| (name, 100 * examples / domains.total()));
    /// assert!(percent.eq([("music", 25), ("speech", 75)]));
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> + '_ {
        self.entries.iter().map(|e| (e.name.as_str(), e.examples))
    }

    /// Examples of all domains together.
    ///
    /// ```
    /// # use qat_kernels::calibration::Domains;
    /// # let mut domains = Domains::new();
    /// domains.add("speech", 30)?;
    /// domains.add("music", 10)?;
    /// assert_eq!(domains.total(), 40);
    /// domains.add("noise", u64::MAX)?;
    /// assert_eq!(domains.total(), u64::MAX); // does not wrap
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn total(&self) -> u64 {
        self.entries.iter().fold(0, |sum, e| sum.saturating_add(e.examples))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_counting_does_not_matter() {
        let mut a = Domains::new();
        for (name, n) in [("vision", 3), ("audio", 1), ("vision", 2)] {
            a.add(name, n).unwrap();
        }
        assert_eq!(a.iter().collect::<std::vec::Vec<_>>(), [("audio", 1), ("vision", 5)]);
        assert_eq!(a.total(), 6);
        let mut b = Domains::new();
        b.add("vision", 5).unwrap();
        b.add("audio", 1).unwrap();
        assert_eq!(a, b);
    }

    #[test]
    fn a_merge_that_does_not_fit_changes_nothing() {
        let (mut a, mut b) = (Domains::new(), Domains::new());
        for i in 0..MAX_DOMAINS {
            a.add(&std::format!("a{i}"), 1).unwrap();
        }
        b.add("a0", 1).unwrap();
        b.add("b", 1).unwrap();
        let before = a.clone();
        assert_eq!(a.merge(&b), Err(Error::Capacity { what: What::Domains, capacity: MAX_DOMAINS }));
        assert_eq!(a, before);
    }

    #[test]
    fn bad_names_are_refused() {
        let mut d = Domains::new();
        assert_eq!(d.add("", 1), Err(Error::Empty { what: What::Text }));
        let long = "x".repeat(MAX_DOMAIN_NAME + 1);
        assert_eq!(d.add(&long, 1), Err(Error::Capacity { what: What::Text, capacity: MAX_DOMAIN_NAME }));
        assert_eq!(d.add(&long[1..], 1), Ok(()));
    }
}
