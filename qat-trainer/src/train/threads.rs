//! How many threads torch may use.

use crate::error::Result;
use crate::spec::{ModelSpec, Shape};

/// Multiply-accumulates of one training step that keep one thread busy. Torch's threads wait for each other several
/// times per layer, and wait by spinning: below this they cost more than they bring, on a busy machine many times more.
const PER_THREAD: f64 = 1e9;

/// Torch's number of threads, for the lifetime of this value; afterwards what it was.
pub(super) struct Threads {
    before: i32,
}

impl Threads {
    /// As many as a step on `batch` examples is worth, but no more than torch is set to now: the number of cores, or
    /// `OMP_NUM_THREADS`.
    pub(super) fn worth(model: &ModelSpec, input: Shape, batch: usize) -> Result<Self> {
        let before = tch::get_num_threads();
        // Forward, and twice as much backward.
        let step = 3.0 * batch as f64 * macs(model, input)?;
        let worth = (step / PER_THREAD).ceil().clamp(1.0, f64::from(before.max(1)));
        tch::set_num_threads(worth as i32);
        Ok(Self { before })
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        tch::set_num_threads(self.before.max(1));
    }
}

/// Multiply-accumulates of the forward pass of one example.
fn macs(model: &ModelSpec, input: Shape) -> Result<f64> {
    let shapes = model.shapes(input)?;
    let of_layer = |(i, shape): (usize, &Shape)| {
        let l = &model.layers[i];
        let weights =
            l.op.weight_shape(l.input.of(input, &shapes)).map_or(0, |w| w.iter().product::<usize>());
        weights as f64 * (shape.h * shape.w) as f64
    };
    Ok(shapes.iter().enumerate().map(of_layer).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::train::tests::small_cnn;

    #[test]
    fn small_steps_get_one_thread_and_the_setting_comes_back() {
        let run = small_cnn(1);
        let before = tch::get_num_threads();
        {
            let _threads = Threads::worth(&run.model, Shape { h: 8, w: 8, c: 1 }, 16).unwrap();
            assert_eq!(tch::get_num_threads(), 1);
        }
        assert_eq!(tch::get_num_threads(), before);
    }

    #[test]
    fn macs_of_a_convolution_count_every_place() {
        let run = small_cnn(1);
        // 3×3, 1 → 4 channels on 8×8; 3×3 depthwise on 4×4; 3×3, 4 → 4 on 4×4; linear 4 → 3.
        let wanted = 9 * 4 * 64 + 9 * 4 * 16 + 9 * 16 * 16 + 12;
        assert_eq!(macs(&run.model, Shape { h: 8, w: 8, c: 1 }).unwrap(), f64::from(wanted));
    }
}
