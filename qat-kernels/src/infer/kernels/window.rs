//! Where the windows of convolutions and poolings lie.

/// Shapes of an operator that slides a window; height before width, channels last.
#[derive(Clone, Copy, Debug)]
pub(in crate::infer) struct Windows {
    pub(in crate::infer) input: [usize; 3],
    pub(in crate::infer) output: [usize; 3],
    pub(in crate::infer) kernel: [usize; 2],
    pub(in crate::infer) stride: [usize; 2],
    pub(in crate::infer) pad: [usize; 2],
}

impl Windows {
    /// The output pixels in order, as (row, column).
    pub(super) fn pixels(&self) -> impl Iterator<Item = (usize, usize)> + use<> {
        let [height, width, _] = self.output;
        (0..height).flat_map(move |y| (0..width).map(move |x| (y, x)))
    }

    /// The taps of the window at an output pixel that fall inside the input: (tap index, the tap's channels).
    pub(super) fn taps<'a>(
        &self,
        x: &'a [i8],
        (row, column): (usize, usize),
    ) -> impl Iterator<Item = (usize, Option<&'a [i8]>)> + use<'a> {
        let [height, width, channels] = self.input;
        let [kernel_h, kernel_w] = self.kernel;
        let (top, left) = (row * self.stride[0], column * self.stride[1]);
        let [pad_top, pad_left] = self.pad;
        (0..kernel_h).flat_map(move |ky| {
            // Wraps below zero for the padding, which the comparison with the height then rejects.
            let iy = (top + ky).wrapping_sub(pad_top);
            (0..kernel_w).map(move |kx| {
                let ix = (left + kx).wrapping_sub(pad_left);
                let inside = iy < height && ix < width;
                let pixel = inside.then(|| (iy * width + ix) * channels);
                (ky * kernel_w + kx, pixel.and_then(|at| x.get(at..)?.get(..channels)))
            })
        })
    }
}
