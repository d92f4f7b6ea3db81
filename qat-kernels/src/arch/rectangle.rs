//! Lines of bytes that lie so many bytes apart: windows of an input.

/// A rectangle of bytes. The loops read its first four fields.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Rectangle {
    lines: usize,
    len: usize,
    to_stride: usize,
    from_stride: usize,
    /// Bytes from the first line's beginning to the last one's end.
    to_len: usize,
    from_len: usize,
}

impl Rectangle {
    /// So many `lines` of `len` bytes; the next line begins `to_stride` and `from_stride` bytes behind. `None` if there is no
    /// line.
    #[inline(always)]
    pub(crate) fn new(lines: usize, len: usize, to_stride: usize, from_stride: usize) -> Option<Self> {
        let last = lines.checked_sub(1)?;
        let needed = |stride: usize| last.checked_mul(stride)?.checked_add(len);
        let (to_len, from_len) = (needed(to_stride)?, needed(from_stride)?);
        Some(Self { lines, len, to_stride, from_stride, to_len, from_len })
    }

    /// Whether both slices reach as far as the last line's end.
    #[inline(always)]
    pub(super) fn fits(&self, to: &[i8], from: &[i8]) -> bool {
        self.to_len <= to.len() && self.from_len <= from.len()
    }

    /// The lines in what they are copied from.
    #[cfg(not(target_os = "none"))]
    pub(super) fn lines_of<'a>(&self, from: &'a [i8]) -> impl Iterator<Item = &'a [i8]> {
        let &Self { lines, len, from_stride, .. } = self;
        (0..lines).map_while(move |line| from.get(line * from_stride..)?.get(..len))
    }

    /// What the loops do.
    #[cfg(not(target_os = "none"))]
    pub(super) fn copy(&self, to: &mut [i8], from: &[i8]) -> Option<()> {
        for (line, from) in self.lines_of(from).enumerate() {
            to.get_mut(line * self.to_stride..)?.get_mut(..self.len)?.copy_from_slice(from);
        }
        Some(())
    }
}
