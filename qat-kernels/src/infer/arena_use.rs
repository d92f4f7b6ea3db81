//! How well a model's arena is used.
#![cfg(feature = "alloc")]

use super::model::Model;
use crate::artifact::Buffers;
use alloc::vec::Vec;

/// What lies in the arena while each operator runs.
///
/// The caller's input and output are not part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ArenaUse {
    /// Bytes of the arena as planned at export.
    pub arena_bytes: usize,
    /// For each operator the bytes that hold something while it runs: its operands, its result, its scratch memory, and
    /// results that later operators read. A result that may take an operand's place counts once with it.
    pub live_bytes: Vec<usize>,
}

impl ArenaUse {
    /// The operator with the most live bytes, the first one among equals.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let largest = model.arena_use().largest_operator();
    /// assert_eq!(model.operators().nth(largest).map(|op| op.name), Some("conv2d")); // the one to make smaller
    /// assert_eq!(largest, 2);
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn largest_operator(&self) -> usize {
        let largest = self.largest_live_set();
        self.live_bytes.iter().position(|&bytes| bytes == largest).unwrap_or(0)
    }

    /// The most live bytes of any operator: no plan can do with a smaller arena.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let used = model.arena_use();
    /// // Operand and result of the third operator, and the first result for the addition behind it.
    /// assert_eq!(used.largest_live_set(), 3 * 6 * 6 * 4);
    /// assert_eq!(used.arena_bytes, used.largest_live_set()); // the plan has no gaps
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn largest_live_set(&self) -> usize {
        self.live_bytes.iter().copied().max().unwrap_or(0)
    }
}

impl Model<'_> {
    /// How the arena is used, for reports.
    ///
    /// ```
    /// # let file = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/v1.piq"));
    /// # use qat_kernels::infer::Model;
    /// let model = Model::parse(file)?;
    /// let live = model.arena_use().live_bytes;
    /// assert_eq!(live[0], 6 * 6 * 4 + 9); // the first convolution's result, and scratch memory for a window
    /// assert_eq!(live[3], 2 * 6 * 6 * 4); // an addition, whose result takes an operand's place
    /// # Ok::<(), qat_kernels::Error>(())
    /// ```
    #[must_use]
    pub fn arena_use(&self) -> ArenaUse {
        let records: Vec<_> =
            (0..usize::from(self.header.operators)).filter_map(|op| self.record(op)).collect();
        let live = Buffers::new(&self.header.input, &records).map(|buffers| buffers.live());
        ArenaUse { arena_bytes: self.arena_len(), live_bytes: live.unwrap_or_default() }
    }
}
