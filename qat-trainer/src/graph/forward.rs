//! The network in floating point, one example at a time: the reference for everything that computes the same faster or
//! in integers.

use super::{Graph, Node, Weights, rotation};
use crate::error::{Error, ErrorKind, Result};
use crate::spec::{Act, Op, Shape, Window};

impl Graph {
    /// The logits of one example.
    ///
    /// `example`: height × width × channels, standardised. `after` sees the output of every layer (index, values,
    /// activation applied) and may change it before the next layer reads it.
    ///
    /// # Errors
    /// [`ErrorKind::Data`] if `example` is not as long as the input's shape says.
    ///
    /// ```
    /// # use qat_trainer::{checkpoint::Checkpoint, graph::Graph, spec::{Run, Shape}};
    /// # let toml = r#"data = { format = "none", shape = [1, 1, 2] }
    /// # [model]
    /// # layers = [{ op = "linear", name = "a", out = 2, act = "relu" }, { op = "linear", name = "b", out = 1 }]"#;
    /// # let run = Run::parse(toml, "run.toml".as_ref())?;
    /// # let mut c = Checkpoint::default();
    /// # c.insert("a.weight", &[2, 2], vec![1.0, 1.0, 1.0, -1.0])?;
    /// # c.insert("b.weight", &[1, 2], vec![1.0, 10.0])?;
    /// # c.insert("a.bias", &[2], vec![0.0; 2])?;
    /// # c.insert("b.bias", &[1], vec![0.5])?;
    /// // relu(x + y) and relu(x − y), the second counted tenfold, and a half.
    /// let graph = Graph::from_checkpoint(&run.model, Shape::flat(2), 1, &c)?;
    /// let mut seen = Vec::new();
    /// assert_eq!(graph.forward(&[1.0, 3.0], |i, out| seen.push((i, out.to_vec())))?, [4.5]);
    /// assert_eq!(seen, [(0, vec![4.0, 0.0]), (1, vec![4.5])]);
    /// // What `after` changes is what the next layer reads.
    /// assert_eq!(graph.forward(&[1.0, 3.0], |i, out| if i == 0 { out[1] = 7.0 })?, [74.5]);
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    pub fn forward(&self, example: &[f32], mut after: impl FnMut(usize, &mut [f32])) -> Result<Vec<f32>> {
        if example.len() != self.input.len() {
            let problem =
                format!("an example of {} numbers; the network takes {}", example.len(), self.input.len());
            return Err(Error::new(ErrorKind::Data, problem));
        }
        let mut values: Vec<Vec<f32>> = Vec::with_capacity(self.nodes.len());
        for (i, node) in self.nodes.iter().enumerate() {
            let read = |v| match v {
                crate::spec::Value::Input => example,
                crate::spec::Value::Layer(i) => &values[i],
            };
            let mut out = node.forward(read(node.input), read);
            after(i, &mut out);
            values.push(out);
        }
        Ok(values.pop().unwrap_or_default())
    }
}

impl Node {
    fn forward<'a>(&self, x: &'a [f32], read: impl Fn(crate::spec::Value) -> &'a [f32]) -> Vec<f32> {
        let mut out = vec![0.0; self.shape.len()];
        let taps = |window: Window| Taps { window, input: self.input_shape, output: self.shape };
        match (&self.op, &self.weights) {
            (Op::Conv { window, .. }, Some(w)) => conv(x, taps(*window), w, &mut out),
            (Op::Depthwise { window, .. }, Some(w)) => depthwise(x, taps(*window), w, &mut out),
            (Op::Linear { .. }, Some(w)) => rows(x, w, &mut out),
            (Op::MaxPool(window), _) => max_pool(x, taps(*window), &mut out),
            (Op::AvgPool(window), _) => avg_pool(x, taps(*window), &mut out),
            (Op::GlobalAvgPool, _) => {
                avg_pool(x, taps(Window::whole(self.input_shape)), &mut out);
            }
            (Op::Add { from, .. }, _) => {
                for (y, (a, b)) in out.iter_mut().zip(x.iter().zip(read(*from))) {
                    *y = a + b;
                }
            }
            (Op::Sigmoid, _) => {
                for (y, x) in out.iter_mut().zip(x) {
                    *y = sigmoid(*x);
                }
            }
            // Channels are innermost already, and the next layer's weights are ordered to match.
            (Op::Flatten, _) => out.copy_from_slice(&x[..self.shape.len()]),
            (Op::Rotate, _) => {
                out.copy_from_slice(&x[..self.shape.len()]);
                // The shapes have been checked: there is something to rotate.
                let _ = rotation(out.len()).map(|rotation| rotation.rotate(&mut out));
            }
            (Op::Conv { .. } | Op::Depthwise { .. } | Op::Linear { .. }, None) => {}
        }
        let act = self.op.act();
        if act != Act::None {
            out.iter_mut().for_each(|y| *y = act.apply(*y));
        }
        out
    }
}

/// 1/(1 + e^(−x)), rounded once: the integer engine's table is made in f64, too.
fn sigmoid(x: f32) -> f32 {
    (1.0 / (1.0 + (-f64::from(x)).exp())) as f32
}

/// Where the windows of an operator lie.
#[derive(Clone, Copy)]
struct Taps {
    window: Window,
    input: Shape,
    output: Shape,
}

impl Taps {
    /// Calls `visit` for every tap of the window at output pixel `pixel`, with the tap's number and the pixel's offset
    /// in the input, if it is inside.
    fn each(&self, pixel: usize, mut visit: impl FnMut(usize, Option<usize>)) {
        let Window { kernel, stride, .. } = self.window;
        let [above, left_of, ..] = self.window.pads(self.input);
        let (top, left) = (pixel / self.output.w * stride[0], pixel % self.output.w * stride[1]);
        for tap in 0..kernel[0] * kernel[1] {
            let y = (top + tap / kernel[1]).wrapping_sub(above);
            let x = (left + tap % kernel[1]).wrapping_sub(left_of);
            let inside = y < self.input.h && x < self.input.w;
            visit(tap, inside.then(|| (y * self.input.w + x) * self.input.c));
        }
    }
}

fn conv(x: &[f32], taps: Taps, weights: &Weights, out: &mut [f32]) {
    let c = taps.input.c;
    let mut window = vec![0.0; weights.fan_in];
    for (pixel, out) in out.chunks_exact_mut(weights.channels).enumerate() {
        taps.each(pixel, |tap, at| {
            let slot = &mut window[tap * c..][..c];
            match at {
                Some(at) => slot.copy_from_slice(&x[at..][..c]),
                None => slot.fill(0.0),
            }
        });
        rows(&window, weights, out);
    }
}

fn depthwise(x: &[f32], taps: Taps, weights: &Weights, out: &mut [f32]) {
    for (pixel, out) in out.chunks_exact_mut(weights.channels).enumerate() {
        out.copy_from_slice(&weights.bias);
        taps.each(pixel, |tap, at| {
            if let Some(at) = at {
                for (c, y) in out.iter_mut().enumerate() {
                    *y += weights.rows[c * weights.fan_in + tap] * x[at + c];
                }
            }
        });
    }
}

fn rows(x: &[f32], weights: &Weights, out: &mut [f32]) {
    for ((y, row), b) in out.iter_mut().zip(weights.channel_rows()).zip(&weights.bias) {
        *y = dot(row, x) + b;
    }
}

/// Eight running sums: the compiler can use vectors, and the order is the same on every machine.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a8, a_tail) = a.as_chunks::<8>();
    let (b8, b_tail) = b.as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (a, b) in a8.iter().zip(b8) {
        for i in 0..8 {
            sums[i] += a[i] * b[i];
        }
    }
    sums.iter().sum::<f32>() + a_tail.iter().zip(b_tail).map(|(a, b)| a * b).sum::<f32>()
}

fn max_pool(x: &[f32], taps: Taps, out: &mut [f32]) {
    out.fill(f32::NEG_INFINITY);
    for (pixel, out) in out.chunks_exact_mut(taps.input.c).enumerate() {
        taps.each(pixel, |_, at| {
            if let Some(at) = at {
                out.iter_mut().zip(&x[at..]).for_each(|(y, &x)| *y = y.max(x));
            }
        });
    }
}

fn avg_pool(x: &[f32], taps: Taps, out: &mut [f32]) {
    let area = (taps.window.kernel[0] * taps.window.kernel[1]) as f32;
    for (pixel, out) in out.chunks_exact_mut(taps.input.c).enumerate() {
        taps.each(pixel, |_, at| {
            if let Some(at) = at {
                out.iter_mut().zip(&x[at..]).for_each(|(y, &x)| *y += x);
            }
        });
        out.iter_mut().for_each(|y| *y /= area);
    }
}
