//! The operations that are timed: each with its inputs, the copy that it is compared with, and the answers that it must
//! give. Nothing is timed before its answers were checked against the scalar definitions.
//!
//! | operations | what is copied beside them |
//! |---|---|
//! | `*_fwd_bwd`, `scale_grad`, `lsq_adamw`, `fake_quantise`, `quantise` | half the bytes they read and write: a copy moves each twice |
//! | `dequantise_*`, `pack_*`, `unpack_*` | the larger side |
//! | `hadamard` | the vector |
//! | `observe_*` | half the bytes they read |

mod codes;
mod estimators;
mod observe;
mod passes;
mod quantisers;
mod rotation;
mod training_step;

use anyhow::{Result, ensure};
pub use qat_kernels::ste_simd::Backend;
use std::thread;

/// Rows, columns and the threads that share the rows.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Rows; each has a step of its own.
    pub rows: usize,
    /// Weights of a row, a multiple of 32.
    pub columns: usize,
    /// Threads, started anew for every run.
    pub threads: usize,
}

impl Shape {
    /// Number of weights.
    #[must_use]
    pub const fn len(self) -> usize {
        self.rows * self.columns
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Rows of the threads but the last, which may have fewer.
    const fn rows_of_thread(self) -> usize {
        self.rows.div_ceil(self.threads)
    }

    /// Weights of the threads but the last.
    const fn len_of_thread(self) -> usize {
        self.rows_of_thread() * self.columns
    }
}

/// One operation on tensors of its own.
pub trait Case {
    /// Bytes that the copy beside it copies.
    fn copied(&self) -> usize;

    /// Does it once; operations that choose a backend by themselves are told [`Backend::best`].
    ///
    /// # Errors
    /// That of the kernels.
    fn run(&mut self, backend: Backend) -> qat_kernels::Result<()>;

    /// Compares what [`Self::run`] has left with the definition.
    ///
    /// # Errors
    /// What is wrong, and where.
    fn check(&self) -> Result<()>;
}

/// How a case is made.
type Make = fn(Shape) -> Result<Box<dyn Case>>;

/// An operation on matrices.
#[derive(Clone, Copy, Debug)]
pub struct Operation {
    /// Its name in benchmarks and results.
    pub name: &'static str,
    make: Make,
    /// Whether it can be told which backend to use.
    told: bool,
}

impl Operation {
    /// One that can be told which backend to use.
    const fn told(name: &'static str, make: Make) -> Self {
        Self { name, make, told: true }
    }

    /// One that chooses the best backend by itself.
    const fn chooses(name: &'static str, make: Make) -> Self {
        Self { name, make, told: false }
    }

    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::told("quantise", passes::quantise),
        Self::told("dequantise_2bit", passes::dequantise),
        Self::told("fake_quantise", passes::fake_quantise),
        Self::told("scale_grad", passes::scale_gradient),
        Self::told("lsq_adamw", training_step::lsq_adamw),
        Self::told("standard_fwd_bwd", estimators::standard),
        Self::told("clipped_fwd_bwd", estimators::clipped),
        Self::told("lsq_fwd_bwd", estimators::lsq),
        Self::told("ewgs_fwd_bwd", estimators::ewgs),
        Self::chooses("pi_fwd_bwd", quantisers::pi),
        Self::chooses("adaptive_pi_fwd_bwd", quantisers::adaptive_pi),
        Self::chooses("pack_2bit", |shape| codes::pack(2, shape)),
        Self::chooses("unpack_2bit", |shape| codes::unpack(2, shape)),
        Self::chooses("pack_3bit", |shape| codes::pack(3, shape)),
        Self::chooses("unpack_3bit", |shape| codes::unpack(3, shape)),
        Self::chooses("pack_4bit", |shape| codes::pack(4, shape)),
        Self::chooses("unpack_4bit", |shape| codes::unpack(4, shape)),
        Self::chooses("hadamard", rotation::hadamard),
        Self::chooses("observe_minmax", observe::min_max),
        Self::chooses("observe_histogram", observe::histogram),
    ];

    /// The operation of that name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|operation| operation.name == name)
    }

    /// A case of it.
    ///
    /// # Errors
    /// The shape does not suit it.
    pub fn on(self, shape: Shape) -> Result<Box<dyn Case>> {
        (self.make)(shape)
    }

    /// The backends that it runs on: each one of the machine, or just the best.
    #[must_use]
    pub fn backends(self) -> Vec<Backend> {
        if self.told { Backend::available().collect() } else { vec![Backend::best()] }
    }
}

/// The yardstick: the C library's memcpy, shared out to threads.
#[derive(Debug)]
pub struct Copy {
    from: Vec<u8>,
    to: Vec<u8>,
    threads: usize,
}

impl Copy {
    /// Of so many bytes.
    #[must_use]
    pub fn new(bytes: usize, threads: usize) -> Self {
        // Neither is zero memory that the system has not handed out yet.
        Self { from: vec![1; bytes], to: vec![2; bytes], threads }
    }

    /// Copies once.
    pub fn run(&mut self) {
        if self.threads == 1 {
            return self.to.copy_from_slice(&self.from);
        }
        let part = self.from.len().div_ceil(self.threads).max(1);
        let parts = self.from.chunks(part).zip(self.to.chunks_mut(part));
        let copied = share_out(parts, |(from, to)| {
            to.copy_from_slice(from);
            Ok(())
        });
        debug_assert_eq!(copied, Ok(()));
    }
}

/// Does `work` on every part, each on a thread of its own but the last one, which is for the calling thread.
fn share_out<T: Send>(
    parts: impl Iterator<Item = T>,
    work: impl Fn(T) -> qat_kernels::Result<()> + std::marker::Copy + Send,
) -> qat_kernels::Result<()> {
    let mut parts: Vec<T> = parts.collect();
    let Some(last) = parts.pop() else { return Ok(()) };
    if parts.is_empty() {
        return work(last);
    }
    thread::scope(|scope| {
        let others: Vec<_> = parts.into_iter().map(|part| scope.spawn(move || work(part))).collect();
        let mut result = work(last);
        for other in others {
            match other.join() {
                Ok(found) => result = result.and(found),
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        result
    })
}

/// Refuses results that differ anywhere; floats by their bits, −0 and +0 the same.
fn same<T: PartialEq + std::fmt::Debug>(
    what: &str,
    found: &[T],
    expected: impl Iterator<Item = T>,
) -> Result<()> {
    for (i, (found, expected)) in found.iter().zip(expected).enumerate() {
        ensure!(*found == expected, "{what} {i} is {found:?}, not {expected:?}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { rows: 6, columns: 192, threads: 2 };

    #[test]
    fn every_operation_gives_the_right_answer_on_every_backend() {
        for operation in Operation::ALL {
            let mut case = operation.on(SHAPE).unwrap();
            assert!(case.copied() > 0);
            for backend in operation.backends() {
                case.run(backend).unwrap();
                case.check().unwrap_or_else(|e| panic!("{} {}: {e}", operation.name, backend.isa().name()));
            }
        }
    }

    #[test]
    fn an_operation_that_has_not_run_is_not_right() {
        for operation in Operation::ALL {
            assert!(operation.on(SHAPE).unwrap().check().is_err(), "{}", operation.name);
        }
    }

    #[test]
    fn the_yardstick_copies() {
        for threads in 1..4 {
            let mut copy = Copy::new(1001, threads);
            copy.run();
            assert_eq!(copy.to, [1; 1001]);
        }
    }
}
