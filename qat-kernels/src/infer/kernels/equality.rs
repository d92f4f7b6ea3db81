//! A family's kernels, their instructions computed in Rust, against the portable ones: shapes with every tail, random and
//! extreme activations, random and extreme codes. Each family's tests call these.
#![cfg(feature = "alloc")]

use super::{self as portable, Requant, WeightView, Windows};
use crate::artifact::{ChannelParams, Layout, OpKind, Target, WeightSpec};

/// What is compared: the kernels of a core family, all with their scratch memory behind the other operands.
pub(super) struct Family {
    pub(super) target: Target,
    /// Bytes of scratch memory for a layer with so many channels and weights an output, and bytes of a window to gather.
    pub(super) scratch_len: fn(WeightSpec, OpKind, [usize; 2], usize) -> Option<usize>,
    pub(super) linear: Linear,
    pub(super) conv2d: Windowed,
    pub(super) depthwise: Windowed,
}

type Linear = fn(&[i8], &WeightView<'_>, &Requant, &mut [i8], &mut [i8]) -> Option<()>;

/// The padding's value comes before the scratch memory.
type Windowed = fn(&[i8], &Windows, &WeightView<'_>, &Requant, i8, &mut [i8], &mut [i8]) -> Option<()>;

pub(super) struct Numbers(pub(super) u64);

impl Numbers {
    pub(super) fn below(&mut self, n: u64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) % n).cast_signed()
    }

    /// Activations that are random, all minimal, all maximal, or of both extremes.
    pub(super) fn activations(&mut self, len: usize) -> Vec<i8> {
        let kind = self.below(5);
        (0..len)
            .map(|_| match kind {
                0 => i8::MIN,
                1 => i8::MAX,
                2 => [i8::MIN, i8::MAX][self.below(2) as usize],
                _ => (self.below(256) - 128) as i8,
            })
            .collect()
    }
}

/// One layer in both orders.
struct Layer {
    spec: WeightSpec,
    rows: usize,
    columns: usize,
    /// Codes, divisors and layout: portable, then the family's own.
    packed: [(Vec<u8>, Vec<u8>, Layout); 2],
    params: Vec<[u8; ChannelParams::LEN]>,
    channels: usize,
    fan_in: usize,
}

impl Layer {
    fn random(
        n: &mut Numbers,
        target: Target,
        kind: OpKind,
        [bits, group]: [u8; 2],
        [rows, columns]: [usize; 2],
    ) -> Self {
        let spec = WeightSpec { bits, grid: n.below(2) as u8, layout: target.id(), group };
        let (count, kind_of_codes) = (1i64 << bits, n.below(4));
        let code = |n: &mut Numbers| match kind_of_codes {
            0 => -count / 2,
            1 => count / 2 - 1,
            _ => n.below(count as u64) - count / 2,
        };
        let codes: Vec<i8> = (0..rows * columns).map(|_| code(n) as i8).collect();
        let groups = columns.checked_div(group.into()).unwrap_or(0);
        let divisors: Vec<u8> = (0..rows * groups).map(|_| 2 + n.below(4) as u8).collect();
        let packed = [Target::Portable, target].map(|target| {
            let layout = Layout::new(target, kind, spec, rows, columns).unwrap();
            let mut bytes = (vec![0; layout.code_bytes().unwrap()], vec![0; layout.divisor_bytes().unwrap()]);
            for (i, &code) in codes.iter().enumerate() {
                layout.put_code(&mut bytes.0, i / columns, i % columns, code);
            }
            for (i, &k) in divisors.iter().enumerate() {
                layout.put_divisor(&mut bytes.1, i / groups, i % groups, k);
            }
            (bytes.0, bytes.1, layout)
        });
        let depthwise = kind == OpKind::DepthwiseConv2d;
        let (channels, fan_in) = if depthwise { (columns, rows) } else { (rows, columns) };
        // Multipliers that keep most results inside int8, so that a wrong sum shows.
        let widest = fan_in as i64 * 128 * count * if group == 0 { 2 } else { 40 };
        let params = (0..channels)
            .map(|_| {
                let bias = (n.below(2001) - 1000) as i32;
                let multiplier = ((1i64 << 40) / widest + n.below(1000)) as i32;
                ChannelParams { bias, multiplier }.write()
            })
            .collect();
        Self { spec, rows, columns, packed, params, channels, fan_in }
    }

    fn view(&self, which: usize) -> WeightView<'_> {
        let (codes, divisors, layout) = &self.packed[which];
        WeightView {
            spec: self.spec,
            layout: *layout,
            fan_in: self.fan_in,
            channels: self.channels,
            codes,
            divisors,
            params: &self.params,
        }
    }

    fn about(&self) -> String {
        format!("{:?}, {} rows of {}", self.spec, self.rows, self.columns)
    }
}

pub(super) fn requant(n: &mut Numbers) -> Requant {
    let lo = [-128, -20][n.below(2) as usize];
    Requant {
        shift: 30 + n.below(3) as u8,
        zero_point: (n.below(41) - 20) as i32,
        lo,
        hi: [127, 90][n.below(2) as usize],
    }
}

impl Family {
    /// Bits and group sizes that the family has a kernel for.
    fn kinds(&self, kind: OpKind) -> impl Iterator<Item = [u8; 2]> + use<> {
        let (all, target) = ((2..=8).flat_map(|bits| [0, 8, 16, 32].map(|group| [bits, group])), self.target);
        all.filter(move |&[bits, group]| {
            let spec = WeightSpec { bits, grid: 0, layout: target.id(), group };
            Layout::new(target, kind, spec, 4, 32).is_some()
        })
    }

    fn scratch(&self, layer: &Layer, kind: OpKind, window: usize) -> Vec<i8> {
        vec![0x5A; (self.scratch_len)(layer.spec, kind, [layer.channels, layer.fan_in], window).unwrap()]
    }

    pub(super) fn linear_equals_the_portable_kernel(&self) {
        let n = &mut Numbers(1);
        let mut distinct = std::collections::HashSet::new();
        for [bits, group] in self.kinds(OpKind::Linear) {
            for columns in (1usize..70).chain([127, 128, 160, 256, 480, 481, 641, 992]) {
                if group > 0 && !columns.is_multiple_of(usize::from(group)) {
                    continue;
                }
                for rows in [1, 2, 3, 4, 5, 9] {
                    let layer = Layer::random(n, self.target, OpKind::Linear, [bits, group], [rows, columns]);
                    let (x, requant) = (n.activations(columns), requant(n));
                    let mut out = [vec![0; rows], vec![0; rows]];
                    portable::linear(&x, &layer.view(0), &requant, &mut out[0]).unwrap();
                    let mut scratch = self.scratch(&layer, OpKind::Linear, 0);
                    (self.linear)(&x, &layer.view(1), &requant, &mut scratch, &mut out[1]).unwrap();
                    assert_eq!(out[1], out[0], "{}", layer.about());
                    // Any engine reads the family's order, slowly.
                    let mut read = vec![0; rows];
                    portable::linear(&x, &layer.view(1), &requant, &mut read).unwrap();
                    assert_eq!(read, out[0], "{}", layer.about());
                    distinct.extend(out[0].iter().copied());
                }
            }
        }
        assert!(distinct.len() > 150, "results differ from one another: {}", distinct.len());
    }

    pub(super) fn convolutions_equal_the_portable_kernel(&self) {
        let n = &mut Numbers(2);
        for [bits, group] in self.kinds(OpKind::Conv2d) {
            for _ in 0..400 {
                let windows = random_windows(n, false);
                let window = windows.kernel[0] * windows.kernel[1] * windows.input[2];
                if group == 0 || window.is_multiple_of(usize::from(group)) {
                    self.convolution_equals_the_portable_kernel(n, [bits, group], &windows);
                }
            }
        }
    }

    /// A 1×1 convolution with so many rows and columns.
    pub(super) fn pointwise_equals_the_portable_kernel(
        &self,
        spec: [u8; 2],
        [rows, columns]: [usize; 2],
        [height, width]: [usize; 2],
    ) {
        let windows = Windows {
            input: [height, width, columns],
            output: [height, width, rows],
            kernel: [1, 1],
            stride: [1, 1],
            pad: [0, 0],
        };
        self.convolution_equals_the_portable_kernel(&mut Numbers(5), spec, &windows);
    }

    fn convolution_equals_the_portable_kernel(&self, n: &mut Numbers, spec: [u8; 2], windows: &Windows) {
        let window = windows.kernel[0] * windows.kernel[1] * windows.input[2];
        let layer = Layer::random(n, self.target, OpKind::Conv2d, spec, [windows.output[2], window]);
        let (x, requant) = (n.activations(windows.input.iter().product()), requant(n));
        let zero = (n.below(256) - 128) as i8;
        let gathered = if windows.kernel == [1, 1] && windows.pad == [0, 0] { 0 } else { window };
        let mut out = [(); 2].map(|()| vec![0; windows.output.iter().product()]);
        let mut scratch = vec![0x5A; gathered];
        let views = [layer.view(0), layer.view(1)];
        portable::conv2d(&x, windows, &views[0], &requant, zero, &mut scratch, &mut out[0]).unwrap();
        let mut scratch = self.scratch(&layer, OpKind::Conv2d, gathered);
        (self.conv2d)(&x, windows, &views[1], &requant, zero, &mut scratch, &mut out[1]).unwrap();
        assert_eq!(out[1], out[0], "{}, {windows:?}", layer.about());
    }

    pub(super) fn depthwise_equals_the_portable_kernel(&self) {
        let n = &mut Numbers(3);
        for [bits, group] in self.kinds(OpKind::DepthwiseConv2d) {
            for _ in 0..200 {
                let windows = random_windows(n, true);
                let shape = [windows.kernel[0] * windows.kernel[1], windows.input[2]];
                let layer = Layer::random(n, self.target, OpKind::DepthwiseConv2d, [bits, group], shape);
                let (x, requant) = (n.activations(windows.input.iter().product()), requant(n));
                let zero = (n.below(256) - 128) as i8;
                let mut out = [(); 2].map(|()| vec![0; windows.output.iter().product()]);
                let views = [layer.view(0), layer.view(1)];
                portable::depthwise_conv2d(&x, &windows, &views[0], &requant, zero, &mut out[0]).unwrap();
                let mut scratch = self.scratch(&layer, OpKind::DepthwiseConv2d, 0);
                (self.depthwise)(&x, &windows, &views[1], &requant, zero, &mut scratch, &mut out[1]).unwrap();
                assert_eq!(out[1], out[0], "{}, {windows:?}", layer.about());
            }
        }
    }
}

/// Input, kernel, stride and padding of windows, some of which end within a group of pixels.
fn random_windows(n: &mut Numbers, depthwise: bool) -> Windows {
    let mut pick = |from: &[usize]| from[n.below(from.len() as u64) as usize];
    let kernel = [pick(&[1, 1, 2, 3]), pick(&[1, 1, 3, 4])];
    let stride = [pick(&[1, 1, 2]), pick(&[1, 1, 3])];
    let pad = kernel.map(|k| pick(&[0, 1, 2]).min(k - 1));
    let size = [0, 1].map(|axis| kernel[axis] + pick(&[0, 1, 3, 6]));
    let channels = pick(&[1, 2, 3, 4, 5, 8, 13, 16, 20, 32]);
    let out = if depthwise { channels } else { pick(&[1, 2, 3, 4, 7, 8]) };
    let steps = [0, 1].map(|axis| (size[axis] + 2 * pad[axis] - kernel[axis]) / stride[axis] + 1);
    Windows { input: [size[0], size[1], channels], output: [steps[0], steps[1], out], kernel, stride, pad }
}
