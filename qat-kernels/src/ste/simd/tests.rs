//! Every backend against the scalar definitions, bit for bit; and what happens to bad input.

use super::*;
use crate::grid::{Grid, pi_step};
use crate::ste::lsq_step_gradient;
use proptest::prelude::*;

/// The sum of a step's terms as the module's documentation defines it.
fn documented_sum(terms: &[f32]) -> f32 {
    let mut total = 0.0_f64;
    for block in terms.chunks(1024) {
        let mut lanes = [0.0_f32; 16];
        for (i, t) in block.iter().enumerate() {
            lanes[i % 16] += t;
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                lanes[i] += lanes[i + half];
            }
        }
        total += f64::from(lanes[0]);
    }
    total as f32
}

/// One case: a layout, a quantiser and its data.
struct Case {
    levels: Levels,
    mask: LsqMask,
    ste: SteVariant,
    steps: Vec<f32>,
    next_steps: Vec<f32>,
    w: Vec<f32>,
    g: Vec<f32>,
    per_step: usize,
}

/// xorshift64*: the tests need many numbers, not good ones.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 32) as u32
    }

    /// In −1..1.
    fn unit(&mut self) -> f32 {
        self.next() as i32 as f32 / 2_147_483_648.0
    }
}

impl Case {
    fn new(
        bits: u8,
        grid: Grid,
        mask: LsqMask,
        ste: SteVariant,
        (n, per_step): (usize, usize),
        seed: u64,
    ) -> Self {
        let levels = Levels::new(bits, grid).unwrap();
        let mut r = Numbers(seed | 1);
        let mut step = || match r.next() % 8 {
            0 => 1.0,
            1 => f32::MIN_POSITIVE,
            2 => 1e30,
            3 => pi_step(0.1, 3).unwrap(),
            _ => 0.01 + r.unit().abs(),
        };
        let steps: Vec<f32> = (0..n).map(|_| step()).collect();
        let next_steps = (0..n).map(|_| step()).collect();
        let top = levels.count() as f32;
        let w = (0..n * per_step)
            .map(|i| {
                let step = steps[i / per_step];
                match r.next() % 16 {
                    0 => 0.0,
                    1 => -0.0,
                    2 => f32::from_bits(r.next() % 0x0080_0000), // subnormal
                    3 => f32::MAX,
                    4 => f32::MIN,
                    // Ties and levels, exactly where the step is 1 and nearly so elsewhere.
                    5..8 => ((r.unit() * top) as i32 as f32 * 0.5 * step).clamp(f32::MIN, f32::MAX),
                    // The ends of the range and their neighbours.
                    8 => step * (levels.hi() as f32 + 0.5 * (r.next() % 4) as f32),
                    9 => step * (levels.lo() as f32 - 0.5 * (r.next() % 4) as f32),
                    _ => (r.unit() * 0.6 * top * step).clamp(f32::MIN, f32::MAX),
                }
            })
            .collect();
        let g = (0..n * per_step)
            .map(|_| match r.next() % 16 {
                0 => 0.0,
                1 => -0.0,
                2 => -f32::from_bits(r.next() % 0x0080_0000),
                3 => 1e12,
                _ => r.unit(),
            })
            .collect();
        Self { levels, mask, ste, steps, next_steps, w, g, per_step }
    }

    fn terms(&self, step: usize) -> Vec<f32> {
        let range = step * self.per_step..(step + 1) * self.per_step;
        let term = |i| lsq_step_gradient(self.w[i], self.steps[step], self.levels, self.mask, self.g[i]);
        range.map(term).collect()
    }

    fn per_weight<T>(&self, steps: &[f32], f: impl Fn(f32, f32, f32) -> T) -> Vec<T> {
        (0..self.w.len()).map(|i| f(self.w[i], steps[i / self.per_step], self.g[i])).collect()
    }

    /// Every kernel of `backend` on slices that start `offset` values into their buffers.
    fn holds_on(&self, backend: Backend, offset: usize) {
        let k = Kernels::on(backend);
        let (lv, n) = (self.levels, self.w.len());
        let at = format!(
            "{} {lv:?} {:?} {:?} {} x {}",
            backend.isa().name(),
            self.ste,
            self.mask,
            self.steps.len(),
            self.per_step
        );
        let w = Guarded::new(&self.w, offset);
        let g = Guarded::new(&self.g, offset + 1);
        let blank = vec![7.0; n];
        let want_sums: Vec<f32> = (0..self.steps.len()).map(|s| documented_sum(&self.terms(s))).collect();

        let mut out = Guarded::new(&blank, offset);
        k.fake_quantize(lv, &self.steps, w.get(), out.get_mut()).unwrap();
        out.is(&self.per_weight(&self.steps, |w, s, _| lv.fake_quantize(w, s)), &at);

        let want_codes = self.per_weight(&self.steps, |w, s, _| lv.quantize(w, s) as i8);
        let mut codes = vec![99; n + offset + 1];
        k.quantize(lv, &self.steps, w.get(), &mut codes[offset..offset + n]).unwrap();
        assert_eq!(codes[offset..offset + n], want_codes, "{at}");
        assert!(codes[..offset].iter().chain(&codes[offset + n..]).all(|c| *c == 99), "{at}");

        let mut out = Guarded::new(&blank, offset);
        k.dequantize(lv, &self.steps, &codes[offset..offset + n], out.get_mut()).unwrap();
        out.is(&self.per_weight(&self.steps, |w, s, _| lv.dequantize(lv.quantize(w, s), s)), &at);

        let want = self.per_weight(&self.steps, |w, s, g| self.ste.backward_in_range(w, s, lv, self.mask, g));
        let (mut grad, mut sums) = (Guarded::new(&blank, offset), Guarded::new(&self.steps, offset));
        k.backward(self.ste, lv, self.mask, &self.steps, w.get(), g.get(), grad.get_mut(), sums.get_mut())
            .unwrap();
        grad.is(&want, &at);
        sums.is(&want_sums, &at);

        let (mut grad, mut sums) = (Guarded::new(&self.g, offset), Guarded::new(&self.steps, offset));
        k.backward_in_place(self.ste, lv, self.mask, &self.steps, w.get(), grad.get_mut(), sums.get_mut())
            .unwrap();
        grad.is(&want, &at);
        sums.is(&want_sums, &at);

        let mut sums = Guarded::new(&self.steps, offset);
        k.step_gradient(lv, self.mask, &self.steps, w.get(), g.get(), sums.get_mut()).unwrap();
        sums.is(&want_sums, &at);

        self.fused_holds(k, offset, &want, &want_sums, &at);
    }

    fn fused_holds(&self, k: Kernels, offset: usize, grads: &[f32], sums: &[f32], at: &str) {
        let a = AdamW { lr: 0.01, beta1: 0.9, beta2: 0.99, eps: 1e-8, weight_decay: 0.1, step: 3 };
        let n = self.w.len();
        let (mut m0, mut v0) = (vec![0.0; n], vec![0.0; n]);
        for i in 0..n {
            (m0[i], v0[i]) = (self.g[n - 1 - i] * 0.5, self.w[i].clamp(-1.0, 1.0).powi(2));
        }
        // AdamW as its documentation defines it.
        let (lr, b1, b2) = (f64::from(a.lr), f64::from(a.beta1), f64::from(a.beta2));
        let decay = (1.0 - lr * f64::from(a.weight_decay)) as f32;
        let (rest1, rest2) = ((1.0 - b1) as f32, (1.0 - b2) as f32);
        let (rate, scale) =
            ((lr / (1.0 - b1 * (b1 * b1))) as f32, (1.0 / (1.0 - b2 * (b2 * b2)).sqrt()) as f32);
        let normal = |x: f32| if x.abs() < f32::MIN_POSITIVE { 0.0 } else { x };
        let (mut w1, mut m1, mut v1, mut hat) = (vec![], vec![], vec![], vec![]);
        for i in 0..n {
            let g = grads[i];
            let m = normal(a.beta1 * m0[i] + rest1 * g);
            let v = normal(a.beta2 * v0[i] + (rest2 * g) * g);
            let w = self.w[i] * decay - rate * m / (v.sqrt() * scale + a.eps);
            hat.push(self.levels.fake_quantize(w, self.next_steps[i / self.per_step]));
            w1.push(w);
            m1.push(m);
            v1.push(v);
        }
        // With the sums, and without them; and what is left of the update once the estimator has been applied.
        let (lv, mask, steps, next) = (self.levels, self.mask, &self.steps, &self.next_steps);
        let ways = [
            (self.ste, steps, &self.g[..], true),
            (self.ste, steps, &self.g[..], false),
            (SteVariant::Standard, next, grads, false),
        ];
        for (ste, steps, g, summed) in ways {
            let mut w = Guarded::new(&self.w, offset);
            let (mut m, mut v) = (Guarded::new(&m0, offset + 2), Guarded::new(&v0, offset + 3));
            let (mut w_hat, mut s) = (Guarded::new(&m0, offset), Guarded::new(&self.steps, offset));
            let (w_, m_, v_, hat_) = (w.get_mut(), m.get_mut(), v.get_mut(), w_hat.get_mut());
            let s_ = if summed { s.get_mut() } else { &mut [] };
            k.fused_adamw(ste, lv, mask, steps, next, &a, w_, g, m_, v_, hat_, s_).unwrap();
            w.is(&w1, at);
            m.is(&m1, at);
            v.is(&v1, at);
            w_hat.is(&hat, at);
            s.is(if summed { sums } else { &self.steps }, at);
        }
        // The same update with the new quantised values made afterwards.
        let mut w = Guarded::new(&self.w, offset);
        let (mut m, mut v) = (Guarded::new(&m0, offset + 2), Guarded::new(&v0, offset + 3));
        let (mut w_hat, mut s) = (Guarded::new(&m0, offset), Guarded::new(&self.steps, offset));
        let (w_, m_, v_, s_) = (w.get_mut(), m.get_mut(), v.get_mut(), s.get_mut());
        k.backward_adamw(self.ste, lv, mask, steps, &a, w_, &self.g, m_, v_, s_).unwrap();
        k.fake_quantize(lv, next, w.get(), w_hat.get_mut()).unwrap();
        w.is(&w1, at);
        m.is(&m1, at);
        v.is(&v1, at);
        w_hat.is(&hat, at);
        s.is(sums, at);
    }
}

/// A slice somewhere in a larger buffer, with canaries on both sides.
struct Guarded {
    buffer: Vec<f32>,
    from: usize,
    len: usize,
}

impl Guarded {
    const CANARY: f32 = 1234.5;
    const MARGIN: usize = 32;

    fn new(values: &[f32], offset: usize) -> Self {
        let from = Self::MARGIN + offset;
        let mut buffer = vec![Self::CANARY; from + values.len() + Self::MARGIN];
        buffer[from..from + values.len()].copy_from_slice(values);
        Self { buffer, from, len: values.len() }
    }

    fn get(&self) -> &[f32] {
        &self.buffer[self.from..self.from + self.len]
    }

    fn get_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[self.from..self.from + self.len]
    }

    /// Same bits, and nothing written beside them.
    fn is(&self, want: &[f32], at: &str) {
        for (i, (got, want)) in self.get().iter().zip(want).enumerate() {
            assert_eq!(got.to_bits(), want.to_bits(), "[{i}]: {got} for {want}, {at}");
        }
        let beside = self.buffer[..self.from].iter().chain(&self.buffer[self.from + self.len..]);
        assert!(beside.into_iter().all(|x| *x == Self::CANARY), "canary, {at}");
    }
}

const STES: [SteVariant; 5] = [
    SteVariant::Standard,
    SteVariant::Clipped { clip_val: 0.25 },
    SteVariant::LearnedStepSize,
    SteVariant::Ewgs { lambda: 0.3 },
    SteVariant::Ewgs { lambda: 5.0 },
];

#[test]
fn every_backend_equals_the_scalar_definitions() {
    // Rows around every boundary of the implementation: registers, lanes, tiles; groups of 8, 16 and 32.
    let rows = [1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 48, 63, 64, 65, 100, 128, 513];
    let long = [1008, 1023, 1024, 1025, 1040, 2047, 2048, 3001];
    let shapes: Vec<(usize, usize)> = rows
        .into_iter()
        .flat_map(|per_step| [(1, per_step), (3, per_step), (200, per_step)])
        .chain(long.into_iter().flat_map(|per_step| [(1, per_step), (2, per_step)]))
        .collect();
    let mut turn = 0;
    for backend in Backend::available() {
        for shape in &shapes {
            for ste in STES {
                // Bits, grid, mask and alignment take turns; the next test draws them freely.
                turn += 1;
                let bits = 2 + (turn % 7) as u8;
                let grid = if turn % 2 == 0 { Grid::MidTread } else { Grid::MidRise };
                let mask = if turn % 3 == 0 { LsqMask::Rounded } else { LsqMask::Exact };
                Case::new(bits, grid, mask, ste, *shape, turn as u64).holds_on(backend, turn % 5);
            }
        }
    }
}

#[test]
fn every_width_grid_and_mask_holds_on_every_backend() {
    for backend in Backend::available() {
        for bits in 2..=8 {
            for grid in [Grid::MidTread, Grid::MidRise] {
                for mask in [LsqMask::Exact, LsqMask::Rounded] {
                    for ste in STES {
                        Case::new(bits, grid, mask, ste, (4, 75), 11).holds_on(backend, 0);
                    }
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(debug_assertions) { 48 } else { 512 }))]

    #[test]
    fn drawn_cases_hold_on_every_backend(
        bits in 2u8..=8, rise: bool, rounded: bool, ste in 0usize..5,
        n in 1usize..6, per_step in 1usize..1500, seed: u64, offset in 0usize..17,
    ) {
        let grid = if rise { Grid::MidRise } else { Grid::MidTread };
        let mask = if rounded { LsqMask::Rounded } else { LsqMask::Exact };
        let case = Case::new(bits, grid, mask, STES[ste], (n, per_step), seed);
        for backend in Backend::available() {
            case.holds_on(backend, offset);
        }
    }

    /// INV-1: inside the range no estimator loses a gradient.
    #[test]
    fn no_gradient_is_lost_inside_the_range(
        bits in 2u8..=8, rise: bool, ste in 0usize..4, step in 1e-3f32..10.0,
        drawn in prop::collection::vec((-1.0f32..1.0, 1e-6f32..1e6, any::<bool>()), 1..200),
    ) {
        let levels = Levels::new(bits, if rise { Grid::MidRise } else { Grid::MidTread }).unwrap();
        let ste = match STES[ste] {
            SteVariant::Clipped { .. } => SteVariant::Clipped { clip_val: 1e4 }, // explicit clipping may
            other => other,
        };
        let w: Vec<f32> = drawn.iter().map(|(x, _, _)| x * levels.top() * step).collect();
        let g: Vec<f32> = drawn.iter().map(|(_, g, neg)| if *neg { -g } else { *g }).collect();
        let (mut grad, mut sums) = (vec![0.0; w.len()], [0.0]);
        for backend in Backend::available() {
            Kernels::on(backend)
                .backward(ste, levels, LsqMask::Exact, &[step], &w, &g, &mut grad, &mut sums)
                .unwrap();
            for (i, x) in grad.iter().enumerate() {
                prop_assert!(*x != 0.0 || !levels.inside(w[i] / step), "{ste:?} w = {} g = {}", w[i], g[i]);
            }
        }
    }
}

#[test]
fn a_bad_number_is_named_and_nothing_from_it_on_is_touched() {
    let lv = Levels::new(3, Grid::MidTread).unwrap();
    let (lsq, mask) = (SteVariant::LearnedStepSize, LsqMask::Exact);
    let adamw = AdamW::default();
    for backend in Backend::available() {
        let k = Kernels::on(backend);
        for (n, per_step) in [(1, 5000), (5, 1000), (50, 100), (312, 16), (1, 1)] {
            let len = n * per_step;
            let steps = vec![0.5; n];
            for index in [0, len / 2, len - 1] {
                for bad in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                    let good = vec![0.25; len];
                    let mut broken = good.clone();
                    broken[index] = bad;
                    let blank = vec![7.0; len];
                    let named = |what| Err(Error::NotFinite { what, index });
                    let untouched = |x: &[f32], was: &[f32]| {
                        assert!(
                            x[index..].iter().zip(&was[index..]).all(|(a, b)| a.to_bits() == b.to_bits())
                        );
                    };

                    let mut out = blank.clone();
                    assert_eq!(k.fake_quantize(lv, &steps, &broken, &mut out), named(What::Weights));
                    untouched(&out, &blank);
                    let mut codes = vec![99; len];
                    assert_eq!(k.quantize(lv, &steps, &broken, &mut codes), named(What::Weights));
                    assert!(codes[index..].iter().all(|c| *c == 99));

                    for (w, g, what) in [(&broken, &good, What::Weights), (&good, &broken, What::Gradient)] {
                        let (mut out, mut sums) = (blank.clone(), vec![7.0; n]);
                        assert_eq!(k.backward(lsq, lv, mask, &steps, w, g, &mut out, &mut sums), named(what));
                        untouched(&out, &blank);
                        assert!(sums[index / per_step..].iter().all(|s| *s == 7.0));
                        let mut out = g.clone();
                        assert_eq!(
                            k.backward_in_place(lsq, lv, mask, &steps, w, &mut out, &mut sums),
                            named(what)
                        );
                        untouched(&out, g);
                        assert_eq!(k.step_gradient(lv, mask, &steps, w, g, &mut sums), named(what));
                    }

                    for which in 0..4 {
                        let what = [What::Weights, What::Gradient, What::Moments, What::Moments][which];
                        let pick = |i| if i == which { broken.clone() } else { good.clone() };
                        let (w0, g, m0, v0) = (pick(0), pick(1), pick(2), pick(3));
                        let (mut w, mut m, mut v) = (w0.clone(), m0.clone(), v0.clone());
                        let (mut hat, mut sums) = (blank.clone(), vec![7.0; n]);
                        let (w_, m_, v_, hat_) = (&mut w, &mut m, &mut v, &mut hat);
                        let got = k.fused_adamw(
                            lsq, lv, mask, &steps, &steps, &adamw, w_, &g, m_, v_, hat_, &mut sums,
                        );
                        assert_eq!(got, named(what));
                        for (x, was) in [(&w, &w0), (&m, &m0), (&v, &v0), (&hat, &blank)] {
                            untouched(x, was);
                        }
                        let (mut w, mut m, mut v) = (w0.clone(), m0.clone(), v0.clone());
                        let (w_, m_, v_) = (&mut w, &mut m, &mut v);
                        let got = k.backward_adamw(lsq, lv, mask, &steps, &adamw, w_, &g, m_, v_, &mut sums);
                        assert_eq!(got, named(what));
                        for (x, was) in [(&w, &w0), (&m, &m0), (&v, &v0)] {
                            untouched(x, was);
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn a_code_outside_the_grid_is_named() {
    let lv = Levels::new(4, Grid::MidRise).unwrap();
    for backend in Backend::available() {
        for index in [0, 17, 1500] {
            for code in [-128, -9, 8, 127] {
                let mut codes = [-8i8; 1501];
                codes[index] = code;
                let mut out = [7.0; 1501];
                let got = Kernels::on(backend).dequantize(lv, &[1.0], &codes, &mut out);
                assert_eq!(got, Err(Error::Code { index, code: code.into() }));
                assert!(out[index..].iter().all(|x| *x == 7.0));
            }
        }
    }
}

#[test]
fn slices_that_do_not_fit_together_are_refused() {
    let lv = Levels::new(2, Grid::MidTread).unwrap();
    let (lsq, mask, a) = (SteVariant::LearnedStepSize, LsqMask::Exact, AdamW::default());
    let (w, g) = ([0.5; 6], [1.0; 6]);
    let length = |what, expected, got| Err(Error::Length { what, expected, got });
    let mut out = [7.0; 6];
    assert_eq!(fake_quantize(lv, &[], &w, &mut out), Err(Error::Empty { what: What::Steps }));
    assert_eq!(fake_quantize(lv, &[1.0], &[], &mut []), Err(Error::Empty { what: What::Weights }));
    assert_eq!(dequantize(lv, &[1.0], &[], &mut []), Err(Error::Empty { what: What::Codes }));
    let uneven = Error::NotDivisible { what: What::Weights, len: 6, by: 4 };
    assert_eq!(fake_quantize(lv, &[1.0; 4], &w, &mut out), Err(uneven));
    assert_eq!(
        fake_quantize(lv, &[1.0; 12], &w, &mut out),
        Err(Error::NotDivisible { what: What::Weights, len: 6, by: 12 })
    );
    assert_eq!(fake_quantize(lv, &[1.0], &w, &mut out[..5]), length(What::Output, 6, 5));
    assert_eq!(quantize(lv, &[1.0], &w, &mut [0; 7]), length(What::Codes, 6, 7));
    assert_eq!(dequantize(lv, &[1.0], &[0; 6], &mut out[..2]), length(What::Output, 6, 2));
    for bad in [0.0, -1.0, f32::NAN, f32::INFINITY, 1e-40] {
        match fake_quantize(lv, &[1.0, bad], &w, &mut out) {
            Err(Error::NotPositive { what: What::Steps, index: 1, value }) => {
                assert_eq!(value.to_bits(), bad.to_bits());
            }
            other => panic!("{bad}: {other:?}"),
        }
    }
    let mut s = [7.0; 2];
    let steps = [1.0; 2];
    assert_eq!(backward(lsq, lv, mask, &steps, &w, &g[1..], &mut out, &mut s), length(What::Gradient, 6, 5));
    assert_eq!(backward(lsq, lv, mask, &steps, &w, &g, &mut out[1..], &mut s), length(What::Output, 6, 5));
    assert_eq!(backward(lsq, lv, mask, &steps, &w, &g, &mut out, &mut s[1..]), length(What::Steps, 2, 1));
    assert_eq!(step_gradient(lv, mask, &steps, &w, &g[..3], &mut s), length(What::Gradient, 6, 3));
    assert_eq!(
        backward_in_place(lsq, lv, mask, &steps, &w, &mut [0.0; 7], &mut s),
        length(What::Gradient, 6, 7)
    );
    let clipped = SteVariant::Clipped { clip_val: 0.0 };
    assert!(matches!(
        backward(clipped, lv, mask, &steps, &w, &g, &mut out, &mut s),
        Err(Error::Range { what: What::ClipVal, .. })
    ));
    let fused = |next: &[f32], a: &AdamW, lens: [usize; 6]| {
        let mut b = [[0.5; 6]; 4];
        let [w, m, v, hat] = &mut b;
        let mut sums = [7.0; 2];
        fused_adamw(
            lsq,
            lv,
            mask,
            &steps,
            next,
            a,
            &mut w[..lens[0]],
            &g[..lens[1]],
            &mut m[..lens[2]],
            &mut v[..lens[3]],
            &mut hat[..lens[4]],
            &mut sums[..lens[5]],
        )
    };
    assert_eq!(fused(&steps, &a, [6, 6, 6, 6, 6, 2]), Ok(()));
    assert_eq!(fused(&steps[..1], &a, [6, 6, 6, 6, 6, 2]), length(What::Steps, 2, 1));
    assert_eq!(fused(&steps, &a, [6, 5, 6, 6, 6, 2]), length(What::Gradient, 6, 5));
    assert_eq!(fused(&steps, &a, [6, 6, 5, 6, 6, 2]), length(What::Moments, 6, 5));
    assert_eq!(fused(&steps, &a, [6, 6, 6, 5, 6, 2]), length(What::Moments, 6, 5));
    assert_eq!(fused(&steps, &a, [6, 6, 6, 6, 5, 2]), length(What::Output, 6, 5));
    assert_eq!(fused(&steps, &a, [6, 6, 6, 6, 6, 1]), length(What::Steps, 2, 1));
    assert!(matches!(
        fused(&[1.0, 0.0], &a, [6, 6, 6, 6, 6, 2]),
        Err(Error::NotPositive { what: What::Steps, index: 1, .. })
    ));
    let apart = |lens: [usize; 5]| {
        let [mut w, mut m, mut v] = [[0.5; 6]; 3];
        let (w, m, v) = (&mut w[..lens[0]], &mut m[..lens[2]], &mut v[..lens[3]]);
        backward_adamw(lsq, lv, mask, &steps, &a, w, &g[..lens[1]], m, v, &mut [7.0; 2][..lens[4]])
    };
    assert_eq!(apart([6, 6, 6, 6, 2]), Ok(()));
    assert_eq!(apart([6, 5, 6, 6, 2]), length(What::Gradient, 6, 5));
    assert_eq!(apart([6, 6, 5, 6, 2]), length(What::Moments, 6, 5));
    assert_eq!(apart([6, 6, 6, 5, 2]), length(What::Moments, 6, 5));
    assert_eq!(apart([6, 6, 6, 6, 1]), length(What::Steps, 2, 1));
    let no_rate = AdamW { lr: 0.0, ..a };
    assert!(matches!(
        fused(&steps, &no_rate, [6, 6, 6, 6, 6, 2]),
        Err(Error::NotPositive { what: What::LearningRate, .. })
    ));
    // Lengths and parameters are looked at before anything is written.
    assert_eq!((out, s), ([7.0; 6], [7.0; 2]));
}
