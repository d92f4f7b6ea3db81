//! Examples as batches.

use crate::error::Result;
use crate::llm::examples::{Example, Span};
use crate::llm::loss::IGNORED;
use crate::random::{Purpose, Random};
use tch::{Device, Tensor};

/// Sequences side by side, shorter ones filled up at their ends with what is not predicted.
pub(super) struct Batch {
    /// All tokens but the last ones, `[batch, time]`.
    pub(super) tokens: Tensor,
    /// For each of them the next, `[batch · time]`; [`IGNORED`] in questions and behind the end.
    pub(super) targets: Tensor,
    /// What each target is part of; what is not predicted, of the question.
    pub(super) spans: Vec<Span>,
    /// How many tokens are predicted.
    pub(super) predicted: f64,
}

/// Puts examples side by side, on a device.
pub(super) fn batch<'a>(examples: impl Iterator<Item = &'a Example>, device: Device) -> Result<Batch> {
    let examples: Vec<&Example> = examples.collect();
    let time = examples.iter().map(|e| e.tokens.len()).max().unwrap_or(1).saturating_sub(1);
    let (mut tokens, mut targets, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    for e in &examples {
        let given = e.tokens.iter().map(|&t| i64::from(t)).chain(std::iter::repeat(0));
        // The last token of an example is nobody's input; a filler in its place predicts nothing either.
        tokens.extend(given.take(time));
        let next = e.tokens.iter().zip(&e.spans).skip(1);
        let next = next.map(|(&t, span)| if *span == Span::Question { IGNORED } else { t.into() });
        targets.extend(next.chain(std::iter::repeat(IGNORED)).take(time));
        spans.extend(e.spans.iter().skip(1).copied().chain(std::iter::repeat(Span::Question)).take(time));
    }
    let shape = [examples.len() as i64, time as i64];
    Ok(Batch {
        tokens: Tensor::f_from_slice(&tokens)?.f_view(shape)?.f_to_device(device)?,
        predicted: targets.iter().filter(|&&target| target != IGNORED).count() as f64,
        targets: Tensor::f_from_slice(&targets)?.f_to_device(device)?,
        spans,
    })
}

/// The examples of the batch of this number, from 0: every epoch has an order of its own, and what is left over when it is cut
/// into batches comes again in another.
pub(super) fn indices(seed: u64, examples: usize, batch: usize, number: usize) -> Vec<usize> {
    let per_epoch = (examples / batch).max(1);
    let epoch = u32::try_from(number / per_epoch).unwrap_or(u32::MAX);
    let order = Random::new(seed, Purpose::Order(epoch)).order(examples);
    order.into_iter().skip(number % per_epoch * batch).take(batch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_fillers_are_not_predicted() {
        let long = Example {
            tokens: vec![5, 6, 7, 8],
            spans: vec![Span::Question, Span::Question, Span::Step(0), Span::Answer],
        };
        let short = Example { tokens: vec![1, 2], spans: vec![Span::Plain; 2] };
        let b = batch([&long, &short].into_iter(), Device::Cpu).unwrap();
        assert_eq!(Vec::<Vec<i64>>::try_from(&b.tokens).unwrap(), [[5, 6, 7], [1, 2, 0]]);
        let n = IGNORED;
        assert_eq!(Vec::<i64>::try_from(&b.targets).unwrap(), [n, 7, 8, 2, n, n]);
        assert_eq!(b.predicted, 3.0);
        let [q, s, a, p] = [Span::Question, Span::Step(0), Span::Answer, Span::Plain];
        assert_eq!(b.spans, [q, s, a, p, q, q]);
    }

    #[test]
    fn an_epoch_shows_every_example_once_in_an_order_of_its_own() {
        let epoch =
            |first: usize| -> Vec<usize> { (first..first + 3).flat_map(|n| indices(7, 13, 4, n)).collect() };
        let (one, two) = (epoch(0), epoch(3));
        assert_ne!(one, two);
        for mut order in [one, two] {
            order.sort_unstable();
            order.dedup();
            assert_eq!(order.len(), 12);
        }
    }
}
