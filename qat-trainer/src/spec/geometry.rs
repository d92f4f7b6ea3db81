//! Where values and windows lie: shapes, kernels, strides, padding.

/// Largest value of any dimension that a layer may ask for: the file format's 16 bits.
pub(super) const MAX_DIM: usize = u16::MAX as usize;

/// Height, width and channels of a value. A flat value of n features is 1×1×n.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Height.
    pub h: usize,
    /// Width.
    pub w: usize,
    /// Channels or features.
    pub c: usize,
}

impl Shape {
    /// A flat value.
    #[must_use]
    pub const fn flat(features: usize) -> Self {
        Self { h: 1, w: 1, c: features }
    }

    /// Number of elements.
    #[must_use]
    pub const fn len(self) -> usize {
        self.h * self.w * self.c
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether it is a vector, not a map.
    #[must_use]
    pub const fn is_flat(self) -> bool {
        self.h == 1 && self.w == 1
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.is_flat() { write!(f, "{}", self.c) } else { write!(f, "{}x{}x{}", self.h, self.w, self.c) }
    }
}

/// The window of a convolution or pooling, `[vertical, horizontal]` each. In TOML each key takes one number for both or
/// a pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// `kernel`.
    pub kernel: [usize; 2],
    /// `stride`; default 1, for pooling the kernel.
    pub stride: [usize; 2],
    /// `pad`: zeros (the real number 0) around the input; default 0. Pooling has none.
    pub pad: Padding,
}

/// Zeros around the input of a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Padding {
    /// Above, left, below, right, each less than the kernel. TOML: one number for all sides, `[vertical, horizontal]`, or
    /// all four.
    Sides([usize; 4]),
    /// As much as makes the output ⌈input / stride⌉ large, the odd one below and right, as TensorFlow does. TOML:
    /// `"same"`.
    Same,
}

impl Window {
    /// The whole of a map.
    #[must_use]
    pub const fn whole(map: Shape) -> Self {
        Self { kernel: [map.h, map.w], stride: [1, 1], pad: Padding::Sides([0; 4]) }
    }

    /// Padding above, left, below and right of an input of this shape.
    #[must_use]
    pub fn pads(&self, input: Shape) -> [usize; 4] {
        let total = |axis: usize, len: usize| {
            let [kernel, stride] = [self.kernel[axis], self.stride[axis]];
            ((len.div_ceil(stride).max(1) - 1) * stride + kernel).saturating_sub(len)
        };
        match self.pad {
            Padding::Sides(sides) => sides,
            Padding::Same => {
                let [v, h] = [total(0, input.h), total(1, input.w)];
                [v / 2, h / 2, v - v / 2, h - h / 2]
            }
        }
    }

    /// Height and width of the output for an input of this shape: ⌊(n + pads − kernel) / stride⌋ + 1, `None` where the
    /// kernel is larger than the padded input.
    #[must_use]
    pub fn output(&self, input: Shape) -> Option<[usize; 2]> {
        let [top, left, bottom, right] = self.pads(input);
        let side = |axis: usize, padded: usize| {
            padded.checked_sub(self.kernel[axis]).map(|room| room / self.stride[axis] + 1)
        };
        Some([side(0, input.h + top + bottom)?, side(1, input.w + left + right)?])
    }
}
