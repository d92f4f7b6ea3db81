//! Timing in rounds: every contestant once a round, so that whatever else the machine does meets all of them alike.
//!
//! Time is processor time, summed over the threads of this process: waiting for a core that works for others does not
//! count. On an idle machine, threads with equal shares of the work make that the time on the clock times their number.

use crate::numbers::SplitMix64;
use cpu_time::ProcessTime;
use std::time::Duration;

/// Seconds of processor time that one contestant took in each round.
pub type Times = Vec<f64>;

/// Runs every contestant once per round, in an order that is drawn anew each time: a contestant's time also depends on
/// what the one before has left in the caches. Two rounds before the first count for nothing. `contest` runs the
/// contestant of that index.
///
/// # Errors
/// The first one that `contest` returns.
pub fn run<E>(
    contestants: usize,
    rounds: usize,
    mut contest: impl FnMut(usize) -> Result<(), E>,
) -> Result<Vec<Times>, E> {
    const WARM_UP: usize = 2;
    let mut times = vec![Times::with_capacity(rounds); contestants];
    let mut order: Vec<usize> = (0..contestants).collect();
    let mut random = SplitMix64(1);
    for round in 0..WARM_UP + rounds {
        shuffle(&mut order, &mut random);
        for &contestant in &order {
            let began = processor_time();
            contest(contestant)?;
            let elapsed = (processor_time() - began).as_secs_f64();
            if round >= WARM_UP {
                times[contestant].push(elapsed);
            }
        }
    }
    Ok(times)
}

/// The processor time that this process has used so far.
#[must_use]
pub fn processor_time() -> Duration {
    ProcessTime::now().as_duration()
}

/// Fisher and Yates.
fn shuffle(order: &mut [usize], random: &mut SplitMix64) {
    for i in (1..order.len()).rev() {
        order.swap(i, (random.bits() % (i as u64 + 1)) as usize);
    }
}

/// The median of the rounds' quotients a/b.
#[must_use]
pub fn median_ratio(a: &[f64], b: &[f64]) -> f64 {
    median(a.iter().zip(b).map(|(a, b)| a / b).collect())
}

/// The median; NaN if there is none.
#[must_use]
pub fn median(mut x: Vec<f64>) -> f64 {
    x.sort_by(f64::total_cmp);
    match x.len() {
        0 => f64::NAN,
        n if n % 2 == 1 => x[n / 2],
        n => f64::midpoint(x[n / 2 - 1], x[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_of_quotients() {
        assert_eq!(median_ratio(&[1.0, 9.0, 6.0], &[1.0, 3.0, 3.0]), 2.0);
        assert_eq!(median(vec![4.0, 1.0]), 2.5);
        assert!(median(vec![]).is_nan());
    }

    #[test]
    fn every_contestant_runs_once_a_round_in_every_order() {
        let mut order = Vec::new();
        let times = run(3, 98, |i| {
            order.push(i);
            Ok::<(), ()>(())
        });
        assert!(times.unwrap().iter().all(|t| t.len() == 98));
        let mut orders: Vec<&[usize]> = order.chunks(3).collect();
        orders.sort_unstable();
        orders.dedup();
        assert_eq!(orders, [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]]);
        assert_eq!(run(1, 1, |_| Err(5)), Err(5));
    }
}
