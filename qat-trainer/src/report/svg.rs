//! Drawings as SVG text: a frame with axes, and marks in it. No script, no font, no file from elsewhere.

use std::fmt::Write as _;

/// Text for HTML and SVG.
pub(super) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            c => out.push(c),
        }
    }
    out
}

/// A number with as many digits as a reader needs.
pub(super) fn number(x: f64) -> String {
    let magnitude = x.abs();
    let text = match magnitude {
        0.0 => return "0".into(),
        m if (1e4..1e15).contains(&m) => return thousands(x),
        m if !(1e-3..1e15).contains(&m) => return format!("{x:.1e}"),
        m if m >= 100.0 => format!("{x:.0}"),
        m if m >= 10.0 => format!("{x:.1}"),
        m if m >= 1.0 => format!("{x:.2}"),
        _ => format!("{x:.3}"),
    };
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
}

/// A whole number with its thousands apart.
pub(super) fn thousands(x: f64) -> String {
    let digits = format!("{:.0}", x.abs());
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    if x < 0.0 { format!("−{out}") } else { out }
}

/// One axis.
#[derive(Clone, Copy, Debug)]
pub(super) struct Axis<'a> {
    pub(super) label: &'a str,
    lo: f64,
    hi: f64,
    log: bool,
    ticks: usize,
}

impl<'a> Axis<'a> {
    /// From `lo` to `hi`.
    pub(super) fn new(label: &'a str, lo: f64, hi: f64) -> Self {
        let (lo, hi) = if hi > lo { (lo, hi) } else { (lo - 0.5, lo + 0.5) };
        Self { label, lo, hi, log: false, ticks: 5 }
    }

    /// Over these values, with a little room.
    pub(super) fn over(label: &'a str, values: impl Iterator<Item = f64>) -> Self {
        let (lo, hi) = values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)));
        let (lo, hi) = if lo <= hi { (lo, hi) } else { (0.0, 1.0) };
        let room = 0.06 * (hi - lo).max(1e-9);
        Self::new(label, lo - room, hi + room)
    }

    /// The same with logarithmic distances; for positive values.
    pub(super) fn log(self) -> Self {
        let lo = self.lo.max(1e-9);
        Self { lo, hi: self.hi.max(lo * 1.01), log: true, ..self }
    }

    /// With about this many ticks.
    pub(super) fn ticks(self, ticks: usize) -> Self {
        Self { ticks, ..self }
    }

    /// Where a value lies, 0 to 1.
    fn share(&self, x: f64) -> f64 {
        let share = if self.log {
            (x.max(1e-300).ln() - self.lo.ln()) / (self.hi.ln() - self.lo.ln())
        } else {
            (x - self.lo) / (self.hi - self.lo)
        };
        if share.is_finite() { share.clamp(0.0, 1.0) } else { 0.0 }
    }

    /// Round numbers within.
    fn marks(&self) -> Vec<f64> {
        if self.log && self.hi / self.lo > 8.0 {
            let powers = self.lo.log10().floor() as i32..=self.hi.log10().ceil() as i32;
            let all: Vec<f64> =
                powers.map(|e| 10f64.powi(e)).filter(|v| (self.lo..=self.hi).contains(v)).collect();
            let step = all.len().div_ceil(self.ticks.max(1)).max(1);
            return all.into_iter().step_by(step).collect();
        }
        let raw = (self.hi - self.lo) / self.ticks as f64;
        let power = 10f64.powf(raw.log10().floor());
        let unit =
            [1.0, 2.0, 5.0, 10.0].into_iter().find(|u| u * power >= raw * 0.999).unwrap_or(10.0) * power;
        let first = (self.lo / unit).ceil() as i64;
        let last = (self.hi / unit).floor() as i64;
        (first..=last).map(|i| i as f64 * unit).collect()
    }
}

/// A drawing with two axes, in the making.
pub(super) struct Plot<'a> {
    title: String,
    x: Axis<'a>,
    y: Axis<'a>,
    width: f64,
    height: f64,
    left: f64,
    body: String,
}

const RIGHT: f64 = 14.0;
const TOP: f64 = 12.0;
const BOTTOM: f64 = 40.0;

impl<'a> Plot<'a> {
    /// An empty plot; the title is for those who cannot see it, and for tests.
    pub(super) fn new(title: &str, [width, height]: [f64; 2], x: Axis<'a>, y: Axis<'a>) -> Self {
        let longest = y.marks().iter().map(|v| number(*v).chars().count()).max().unwrap_or(1);
        let left = 26.0 + 6.6 * longest as f64;
        Self { title: title.into(), x, y, width, height, left, body: String::new() }
    }

    fn px(&self, x: f64) -> f64 {
        self.left + self.x.share(x) * (self.width - self.left - RIGHT)
    }

    fn py(&self, y: f64) -> f64 {
        self.height - BOTTOM - self.y.share(y) * (self.height - BOTTOM - TOP)
    }

    // Writing to a string does not fail.
    fn put(&mut self, mark: std::fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(mark);
    }

    /// A line through points.
    pub(super) fn line(&mut self, class: &str, points: &[(f64, f64)]) {
        if points.len() == 1 {
            return self.dot(class, points[0], "");
        }
        let path: Vec<String> =
            points.iter().map(|&(x, y)| format!("{:.1},{:.1}", self.px(x), self.py(y))).collect();
        if !path.is_empty() {
            self.put(format_args!(r#"<polyline class="line {class}" points="{}"/>"#, path.join(" ")));
        }
    }

    /// A point with a label for the pointer.
    pub(super) fn dot(&mut self, class: &str, (x, y): (f64, f64), label: &str) {
        let (x, y) = (self.px(x), self.py(y));
        self.put(format_args!(
            r#"<circle class="dot {class}" cx="{x:.1}" cy="{y:.1}" r="5"><title>{}</title></circle>"#,
            escape(label)
        ));
    }

    /// Text at a point, `right` of it or left.
    pub(super) fn text(&mut self, (x, y): (f64, f64), text: &str) {
        let (x, y) = (self.px(x), self.py(y));
        let width = 6.2 * text.chars().count() as f64;
        let (anchor, dx) = if x + 9.0 + width > self.width - 4.0 { ("end", -9.0) } else { ("start", 9.0) };
        self.put(format_args!(
            r#"<text class="name" x="{:.1}" y="{:.1}" text-anchor="{anchor}">{}</text>"#,
            x + dx,
            y + 4.0,
            escape(text)
        ));
    }

    /// A bar from `x0` to `x1`, from the foot of the plot to `y`.
    pub(super) fn bar(&mut self, class: &str, [x0, x1]: [f64; 2], y: f64) {
        let (left, right, top) = (self.px(x0), self.px(x1), self.py(y));
        let foot = self.height - BOTTOM;
        if foot - top > 0.0 {
            self.put(format_args!(
                r#"<rect class="bar {class}" x="{left:.2}" y="{top:.2}" width="{:.2}" height="{:.2}"/>"#,
                (right - left).max(0.5),
                foot - top
            ));
        }
    }

    /// An upright line over the whole height.
    pub(super) fn upright(&mut self, class: &str, x: f64) {
        let (x, foot) = (self.px(x), self.height - BOTTOM);
        self.put(format_args!(r#"<line class="{class}" x1="{x:.1}" y1="{TOP}" x2="{x:.1}" y2="{foot}"/>"#));
    }

    /// A shaded stretch over the whole height.
    pub(super) fn band(&mut self, class: &str, [x0, x1]: [f64; 2]) {
        let (left, right, height) = (self.px(x0), self.px(x1), self.height - BOTTOM - TOP);
        self.put(format_args!(
            r#"<rect class="{class}" x="{left:.1}" y="{TOP}" width="{:.1}" height="{height}"/>"#,
            (right - left).max(0.5)
        ));
    }

    /// The drawing.
    pub(super) fn finish(self) -> String {
        let (w, h, foot) = (self.width, self.height, self.height - BOTTOM);
        let mut axes = String::new();
        let mut put = |mark: std::fmt::Arguments<'_>| {
            let _ = axes.write_fmt(mark);
        };
        for v in self.y.marks() {
            let y = self.py(v);
            put(format_args!(
                r#"<line class="grid" x1="{:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/>"#,
                self.left,
                w - RIGHT
            ));
            let at = self.left - 6.0;
            put(format_args!(
                r#"<text class="tick" x="{at:.1}" y="{:.1}" text-anchor="end">{}</text>"#,
                y + 3.5,
                number(v)
            ));
        }
        for v in self.x.marks() {
            let (x, y) = (self.px(v), foot + 15.0);
            put(format_args!(
                r#"<line class="grid" x1="{x:.1}" y1="{foot}" x2="{x:.1}" y2="{:.1}"/>"#,
                foot + 4.0
            ));
            put(format_args!(
                r#"<text class="tick" x="{x:.1}" y="{y:.1}" text-anchor="middle">{}</text>"#,
                number(v)
            ));
        }
        put(format_args!(
            r#"<line class="axis" x1="{:.1}" y1="{foot}" x2="{:.1}" y2="{foot}"/>"#,
            self.left,
            w - RIGHT
        ));
        let middle = (self.left + w - RIGHT) / 2.0;
        put(format_args!(
            r#"<text class="label" x="{middle:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            h - 7.0,
            escape(self.x.label)
        ));
        let side = (TOP + foot) / 2.0;
        put(format_args!(
            r#"<text class="label" transform="translate(13 {side:.1}) rotate(-90)" text-anchor="middle">{}</text>"#,
            escape(self.y.label)
        ));
        picture(&self.title, [w, h], &format!("{axes}{}", self.body))
    }
}

/// A drawing of this size.
pub(super) fn picture(title: &str, [width, height]: [f64; 2], body: &str) -> String {
    let title = escape(title);
    format!(
        r#"<svg viewBox="0 0 {width} {height}" style="max-width:{width}px" role="img" aria-label="{title}"><title>{title}</title>{body}</svg>"#
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_for_readers() {
        for (x, want) in [
            (0.0, "0"),
            (0.5, "0.5"),
            (12.34, "12.3"),
            (100.4, "100"),
            (1e-5, "1.0e-5"),
            (-2.5, "-2.5"),
            (40.0, "40"),
            (14952.0, "14\u{202f}952"),
            (2544256.0, "2\u{202f}544\u{202f}256"),
            (-12345.0, "−12\u{202f}345"),
        ] {
            assert_eq!(number(x), want);
        }
    }

    #[test]
    fn ticks_are_round_and_inside() {
        for (lo, hi) in [(0.0, 1.0), (97.3, 98.9), (-3.0, 250.0), (1e-6, 3e-6), (5.0, 5.0)] {
            let axis = Axis::new("", lo, hi);
            let marks = axis.marks();
            assert!((2..=9).contains(&marks.len()), "{lo} {hi} {marks:?}");
            assert!(marks.iter().all(|m| (axis.lo..=axis.hi).contains(m)), "{marks:?}");
        }
        assert_eq!(Axis::new("", 1.0, 5000.0).log().marks(), [1.0, 10.0, 100.0, 1000.0]);
    }

    #[test]
    fn marks_stay_within_the_drawing_whatever_is_drawn() {
        let mut plot = Plot::new("a & b", [200.0, 100.0], Axis::new("x", 0.0, 1.0), Axis::new("y", 0.0, 1.0));
        plot.line("a", &[(-5.0, f64::NAN), (0.5, 7.0), (9.0, f64::INFINITY)]);
        plot.dot("a", (f64::NEG_INFINITY, 0.5), "<&>");
        plot.bar("a", [0.2, 0.1], 0.5);
        let svg = plot.finish();
        assert!(!svg.contains("NaN") && !svg.contains("inf") && svg.contains("&lt;&amp;&gt;"), "{svg}");
        assert!(svg.contains(r#"aria-label="a &amp; b""#));
    }
}
