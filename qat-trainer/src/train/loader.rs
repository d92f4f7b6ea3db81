//! Batches made by a thread of their own, a little ahead of the training.

use super::batches::{Batch, Batches};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::TrainSpec;
use std::sync::mpsc;

/// Batches that may wait for the training.
const AHEAD: usize = 2;

/// The batches of the rest of an epoch.
pub(super) struct Work<'a> {
    /// Where they come from.
    pub(super) source: &'a Batches<'a>,
    /// The examples, in order.
    pub(super) order: &'a [usize],
    /// Examples of each batch.
    pub(super) batch: usize,
    /// Distortion and seed.
    pub(super) spec: &'a TrainSpec,
    /// The epoch that decides the distortions.
    pub(super) epoch: u32,
}

/// Runs `consume` with a function that gives the next batch. What the batches hold does not depend on when they are made.
pub(super) fn with_batches<R>(
    work: &Work<'_>,
    consume: impl FnOnce(&mut dyn FnMut() -> Result<Batch>) -> Result<R>,
) -> Result<R> {
    std::thread::scope(|scope| {
        let (sender, receiver) = mpsc::sync_channel(AHEAD);
        scope.spawn(move || {
            for indices in work.order.chunks_exact(work.batch) {
                let batch = work.source.distorted(indices, work.spec.augment, work.spec.seed, work.epoch);
                // Nobody receives any more once the training has failed or stopped.
                if sender.send(batch).is_err() {
                    break;
                }
            }
        });
        consume(&mut || {
            receiver.recv().unwrap_or_else(|_| Err(Error::new(ErrorKind::Train, "the batches ended early")))
        })
        // The receiver goes before the scope waits for the thread, which would otherwise wait for the receiver.
    })
}
