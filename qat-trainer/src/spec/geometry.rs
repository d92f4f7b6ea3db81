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
    ///
    /// ```
    /// use qat_trainer::spec::Shape;
    /// assert_eq!(Shape::flat(10), Shape { h: 1, w: 1, c: 10 });
    /// assert_eq!(format!("{} and {}", Shape::flat(10), Shape { h: 8, w: 6, c: 3 }), "10 and 8x6x3");
    /// ```
    #[must_use]
    pub const fn flat(features: usize) -> Self {
        Self { h: 1, w: 1, c: features }
    }

    /// Number of elements.
    ///
    /// ```
    /// use qat_trainer::spec::Shape;
    /// assert_eq!(Shape { h: 32, w: 32, c: 3 }.len(), 3_072); // of 8 bits: bytes of a colour image
    /// ```
    #[must_use]
    pub const fn len(self) -> usize {
        self.h * self.w * self.c
    }

    /// Whether there are none.
    ///
    /// ```
    /// use qat_trainer::spec::Shape;
    /// assert!(Shape { h: 0, w: 32, c: 3 }.is_empty() && !Shape::flat(1).is_empty());
    /// ```
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.len() == 0
    }

    /// Whether it is a vector, not a map.
    ///
    /// ```
    /// use qat_trainer::spec::Shape;
    /// assert!(Shape { h: 1, w: 1, c: 64 }.is_flat()); // as a global average leaves it
    /// assert!(!Shape { h: 1, w: 64, c: 1 }.is_flat()); // a row of pixels is a map
    /// ```
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
    /// `stride`; default 1, for pooling the kernel. Set to 0 by hand it counts as 1.
    pub stride: [usize; 2],
    /// `pad`: zeros (the real number 0) around the input; default 0. Pooling has none.
    pub pad: Padding,
}

/// Zeros around the input of a window.
///
/// ```
/// use qat_trainer::spec::{Padding, Shape, Window};
/// let window = |pad| Window { kernel: [3, 3], stride: [2, 2], pad };
/// let (image, same, ones) = (Shape { h: 8, w: 8, c: 1 }, window(Padding::Same), window(Padding::Sides([1; 4])));
/// // Both halve the image, but the windows lie elsewhere: TensorFlow's weights are no PyTorch's.
/// assert_eq!((same.output(image), ones.output(image)), (Some([4, 4]), Some([4, 4])));
/// assert_eq!((same.pads(image), ones.pads(image)), ([0, 0, 1, 1], [1, 1, 1, 1]));
/// ```
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
    ///
    /// ```
    /// use qat_trainer::spec::{Shape, Window};
    /// let map = Shape { h: 25, w: 5, c: 64 };
    /// assert_eq!(Window::whole(map).output(map), Some([1, 1])); // as `global-avg-pool` pools
    /// ```
    #[must_use]
    pub const fn whole(map: Shape) -> Self {
        Self { kernel: [map.h, map.w], stride: [1, 1], pad: Padding::Sides([0; 4]) }
    }

    /// Padding above, left, below and right of an input of this shape.
    ///
    /// ```
    /// use qat_trainer::spec::{Padding, Shape, Window};
    /// let window = Window { kernel: [10, 4], stride: [2, 2], pad: Padding::Same };
    /// // ⌈49/2⌉ = 25 windows cover 24·2 + 10 = 58 rows, 9 more than there are; 5 cover 4·2 + 4 = 12 columns.
    /// assert_eq!(window.pads(Shape { h: 49, w: 10, c: 1 }), [4, 1, 5, 1]);
    /// ```
    #[must_use]
    pub fn pads(&self, input: Shape) -> [usize; 4] {
        let total = |axis: usize, len: usize| {
            let [kernel, stride] = [self.kernel[axis], self.stride[axis].max(1)];
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
    ///
    /// ```
    /// use qat_trainer::spec::{Padding, Shape, Window};
    /// let window = Window { kernel: [3, 2], stride: [2, 2], pad: Padding::Sides([0; 4]) };
    /// assert_eq!(window.output(Shape { h: 6, w: 6, c: 1 }), Some([2, 3])); // the last row is left out
    /// assert_eq!(window.output(Shape { h: 2, w: 6, c: 1 }), None);
    /// ```
    #[must_use]
    pub fn output(&self, input: Shape) -> Option<[usize; 2]> {
        let [top, left, bottom, right] = self.pads(input);
        let side = |axis: usize, padded: usize| {
            padded.checked_sub(self.kernel[axis]).map(|room| room / self.stride[axis].max(1) + 1)
        };
        Some([side(0, input.h + top + bottom)?, side(1, input.w + left + right)?])
    }
}
