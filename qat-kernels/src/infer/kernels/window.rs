//! Where the windows of convolutions and poolings lie.

#[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
use crate::arch::tap::Tap;

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

    /// Lists the channels that every tap of the window at an output pixel reads, `padding` where it lies outside the input.
    #[cfg(any(core_family = "cortex-m55", all(test, feature = "alloc")))]
    #[inline(always)]
    pub(super) fn list<'a>(
        &self,
        x: &'a [i8],
        (row, column): (usize, usize),
        padding: &'a [i8],
        list: &mut [Tap<'a>],
    ) -> Option<()> {
        let [height, width, channels] = self.input;
        let [kernel_h, kernel_w] = self.kernel;
        let (top, left) = (row * self.stride[0], column * self.stride[1]);
        for (ky, line) in (0..kernel_h).zip(list.chunks_mut(kernel_w.max(1))) {
            // Wraps below zero for the padding, which the comparisons then reject.
            let y = (top + ky).wrapping_sub(self.pad[0]);
            for (kx, tap) in line.iter_mut().enumerate() {
                let column = (left + kx).wrapping_sub(self.pad[1]);
                *tap = if y < height && column < width {
                    Tap::new(x.get((y * width + column) * channels..)?.get(..channels)?)
                } else {
                    Tap::new(padding)
                };
            }
        }
        Some(())
    }

    /// The input's pixel at which the window of an output pixel begins, all its channels; for windows of one pixel.
    #[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
    pub(super) fn first<'a>(&self, x: &'a [i8], (row, column): (usize, usize)) -> Option<&'a [i8]> {
        let [_, width, channels] = self.input;
        let pixel = row * self.stride[0] * width + column * self.stride[1];
        x.get(pixel * channels..)?.get(..channels)
    }

    /// The lines of the window at an output pixel: how many values lie left of the input, those inside, and how many lie right
    /// of it.
    #[inline]
    pub(super) fn lines<'a>(
        &self,
        x: &'a [i8],
        (row, column): (usize, usize),
    ) -> impl Iterator<Item = Option<(usize, &'a [i8], usize)>> + use<'a> {
        let [height, width, channels] = self.input;
        let [kernel_h, kernel_w] = self.kernel;
        let (top, left) = (row * self.stride[0], column * self.stride[1]);
        // Columns of the window that lie left of the input, and those before its right end.
        let before = self.pad[1].saturating_sub(left).min(kernel_w);
        let until = (width + self.pad[1]).saturating_sub(left).min(kernel_w);
        let first = (left + before).saturating_sub(self.pad[1]);
        let inside = until.saturating_sub(before) * channels;
        let (before, after) = (before * channels, kernel_w.saturating_sub(until) * channels);
        // Wraps below zero for the padding, which the comparison with the height then rejects.
        let y = top.wrapping_sub(self.pad[0]);
        (0..kernel_h).map(move |ky| {
            let y = y.wrapping_add(ky);
            if y >= height {
                return Some((before + inside + after, &[][..], 0));
            }
            Some((before, x.get((y * width + first) * channels..)?.get(..inside)?, after))
        })
    }

    /// Copies the window at an output pixel into `to`, `outside` where it lies outside the input.
    pub(super) fn gather(&self, x: &[i8], pixel: (usize, usize), outside: i8, to: &mut [i8]) -> Option<()> {
        let line_len = self.kernel[1].checked_mul(self.input[2])?;
        for (line, parts) in to.chunks_exact_mut(line_len.max(1)).zip(self.lines(x, pixel)) {
            let (before, from, after) = parts?;
            let (left, line) = line.split_at_mut_checked(before)?;
            let (middle, right) = line.split_at_mut_checked(from.len())?;
            if before > 0 {
                left.fill(outside);
            }
            #[cfg(core_family = "cortex-m4")]
            crate::arch::cortex_m4::copy(middle, from);
            #[cfg(not(core_family = "cortex-m4"))]
            middle.copy_from_slice(from);
            if after > 0 {
                right.fill(outside);
            }
        }
        Some(())
    }
}
