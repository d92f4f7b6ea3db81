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

/// The output pixels in order, with the windows that lie inside the input entirely.
#[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
pub(super) struct Places<'a> {
    windows: &'a Windows,
    x: &'a [i8],
    row: usize,
    column: usize,
    /// Columns whose windows lie inside as far as the width is concerned: the first one, and how many.
    first: usize,
    columns: usize,
    /// The same in this row.
    inside: usize,
    /// Where the row's windows would begin in the input if there were no padding at the left.
    start: usize,
    /// From one window to the next one.
    step: usize,
}

#[cfg(any(core_family = "cortex-m4", all(test, feature = "alloc")))]
impl<'a> Places<'a> {
    pub(super) fn new(windows: &'a Windows, x: &'a [i8]) -> Option<Self> {
        let ([_, stride], [_, pad]) = (windows.stride, windows.pad);
        let fits = |column: &usize| {
            let left = (column * stride).wrapping_sub(pad);
            Some(left) <= windows.input[1].checked_sub(windows.kernel[1])
        };
        let first = (0..windows.output[1]).find(fits).unwrap_or(0);
        let columns = (first..windows.output[1]).take_while(fits).count();
        let step = stride.checked_mul(windows.input[2])?;
        let mut places = Self { windows, x, row: 0, column: 0, first, columns, inside: 0, start: 0, step };
        places.begin_row();
        Some(places)
    }

    fn begin_row(&mut self) {
        let Windows { input: [height, width, channels], kernel, stride, pad, .. } = *self.windows;
        // Wraps below zero for the padding, which the comparison then rejects.
        let top = (self.row * stride[0]).wrapping_sub(pad[0]);
        self.inside = if Some(top) <= height.checked_sub(kernel[0]) { self.columns } else { 0 };
        self.start = top.wrapping_mul(width).wrapping_sub(pad[1]).wrapping_mul(channels);
    }

    /// The next pixel as (row, column), and the input from the first value of its window on if all of that lies inside.
    #[inline(always)]
    pub(super) fn next(&mut self) -> ((usize, usize), Option<&'a [i8]>) {
        if self.column == self.windows.output[1] {
            (self.row, self.column) = (self.row + 1, 0);
            self.begin_row();
        }
        let (pixel, column) = ((self.row, self.column), self.column);
        self.column += 1;
        let from = if column.wrapping_sub(self.first) < self.inside {
            self.x.get(self.start.wrapping_add(column * self.step)..)
        } else {
            None
        };
        (pixel, from)
    }
}

#[cfg(all(test, feature = "alloc"))]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_inside_if_no_tap_is_outside() {
        for (kernel, stride, pad) in
            [([3, 3], [1, 1], [1, 1]), ([2, 4], [2, 3], [0, 3]), ([5, 1], [1, 2], [2, 0])]
        {
            for (height, width) in [(6, 7), (5, 4), (9, 9)] {
                let steps = [(height, 0), (width, 1)]
                    .map(|(size, i)| (size + 2 * pad[i] - kernel[i]) / stride[i] + 1);
                let windows = Windows {
                    input: [height, width, 2],
                    output: [steps[0], steps[1], 1],
                    kernel,
                    stride,
                    pad,
                };
                let x: Vec<i8> = (0..height * width * 2).map(|i| i as i8).collect();
                let mut places = Places::new(&windows, &x).unwrap();
                for pixel in windows.pixels() {
                    let taps: Option<Vec<_>> =
                        windows.taps(&x, pixel).map(|(_, channels)| channels).collect();
                    let first = taps.map(|taps| taps[0][0]);
                    let (at, from) = places.next();
                    assert_eq!((at, from.map(|from| from[0])), (pixel, first), "{windows:?}");
                }
            }
        }
    }
}
