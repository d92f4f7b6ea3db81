//! `[train] augment`: random distortions.

use super::Source;
use crate::error::Result;
use serde::Deserialize;

/// `[train] augment = { shift, rotate, scale, shear, warp, time_shift, time_mask, gain, noise }`: each example is
/// distorted anew in every epoch, uniformly within these bounds; all default to 0, for none.
///
/// `shift`, `rotate`, `scale`, `shear` and `warp` are for images; `time_shift` and `time_mask` for series, maps whose first axis is time;
/// `gain` and `noise` for everything. What moves in from outside, or is masked, is what a raw feature of 0 becomes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Augment {
    /// Largest shift along each axis, in pixels.
    pub shift: f32,
    /// Largest rotation to either side, in degrees, 0 to 180.
    pub rotate: f32,
    /// Largest relative change of size, 0 ≤ scale < 1.
    pub scale: f32,
    /// Largest slant: columns by which a row moves per row from the middle.
    pub shear: f32,
    /// Largest displacement along each axis of each of 5×5 points over the image, in pixels; what is between them
    /// follows, bilinearly: a coarse kind of the elastic distortions of Simard et al. (2003).
    pub warp: f32,
    /// Largest shift along the first axis, in whole steps of time.
    pub time_shift: u32,
    /// Longest run of steps of time that is masked (Park et al. 2019), from none.
    pub time_mask: u32,
    /// Largest relative change of all features by one factor, 0 ≤ gain < 1. It acts on standardised features.
    pub gain: f32,
    /// Standard deviation of normal noise on each standardised feature.
    pub noise: f32,
}

impl Augment {
    /// Whether nothing is to be distorted.
    ///
    /// ```
    /// use qat_trainer::spec::{Augment, Run};
    /// let toml = r#"
    /// # data = { format = "none", shape = [8, 8, 1] }
    /// # model = { layers = [{ op = "flatten" }, { op = "linear", out = 2 }] }
    /// [train]
    /// augment = { shift = 1.5, rotate = 10 } # pixels, degrees
    /// "#;
    /// assert!(!Run::parse(toml, "run.toml".as_ref())?.train.augment.is_none());
    /// assert!(Augment::default().is_none());
    /// # Ok::<(), qat_trainer::Error>(())
    /// ```
    #[must_use]
    pub fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Whether something needs the examples to be maps: images or series.
    ///
    /// ```
    /// use qat_trainer::spec::Augment;
    /// let of_anything = Augment { gain: 0.1, noise: 0.05, ..Augment::default() };
    /// assert!(!of_anything.needs_a_map());
    /// assert!(Augment { time_mask: 8, ..of_anything }.needs_a_map()); // a row of features has no time
    /// ```
    #[must_use]
    pub fn needs_a_map(self) -> bool {
        self.bends() || self.time_shift > 0 || self.time_mask > 0
    }

    /// Whether images are to be mapped onto themselves.
    #[must_use]
    pub(crate) fn bends(self) -> bool {
        [self.shift, self.rotate, self.scale, self.shear, self.warp].iter().any(|&bound| bound > 0.0)
    }

    pub(super) fn validate(self, source: Source<'_>) -> Result<()> {
        let Self { shift, rotate, scale, shear, warp, gain, noise, .. } = self;
        for (value, ok, allowed) in [
            (shift, shift >= 0.0, "shift of 0 or more pixels"),
            (rotate, (0.0..=180.0).contains(&rotate), "rotate of 0 to 180 degrees"),
            (scale, (0.0..1.0).contains(&scale), "scale from 0 up to, not including, 1"),
            (shear, (0.0..=1.0).contains(&shear), "shear of 0 to 1"),
            (warp, warp >= 0.0, "warp of 0 or more pixels"),
            (gain, (0.0..1.0).contains(&gain), "gain from 0 up to, not including, 1"),
            (noise, noise >= 0.0, "noise of 0 or more"),
        ] {
            if !ok || !value.is_finite() {
                return Err(source
                    .error("train", "augment", format!("{value} is out of range"))
                    .remedy(format!("allowed: {allowed}")));
            }
        }
        Ok(())
    }
}
